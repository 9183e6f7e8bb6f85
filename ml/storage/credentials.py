"""S3 credentials that boto3 finds where none are configured: environment, profile, or the role of a machine or pod.

boto3 knows every source that AWS documents and renews temporary credentials, which minio-py's own providers do not:
https://boto3.amazonaws.com/v1/documentation/api/latest/guide/credentials.html
"""

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from minio.credentials.credentials import Credentials
from minio.credentials.providers import Provider

from ml.errors import InvalidInputError, UnavailableError

if TYPE_CHECKING:
    import boto3
    from obstore.auth.boto3 import Boto3CredentialProvider

_LIFETIME: Final = timedelta(minutes=5)
"""botocore renews temporary credentials ten minutes before they expire at the latest."""


class Boto3Credentials(Provider):
    """Credentials for minio-py, which asks for them at every request.

    Raises:
        InvalidInputError: boto3 finds none.
    """

    def __init__(self) -> None:
        self._credentials = _session().get_credentials()

    def retrieve(self) -> Credentials:
        """The credentials now.

        Raises:
            UnavailableError: they cannot be renewed.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            now = self._credentials.get_frozen_credentials()
        except (BotoCoreError, ClientError, RuntimeError) as error:
            raise UnavailableError(f"the S3 credentials cannot be renewed: {error}") from error
        return Credentials(now.access_key or "", now.secret_key or "", now.token)


def obstore_credentials() -> "Boto3CredentialProvider":
    """The same credentials for obstore."""
    from obstore.auth.boto3 import Boto3CredentialProvider

    return Boto3CredentialProvider(_session(), ttl=_LIFETIME)


def _session() -> "boto3.Session":
    import boto3

    session = boto3.Session()
    if session.get_credentials() is None:
        raise InvalidInputError(
            "EVERGREEN_S3_ACCESS_KEY is empty, and boto3 finds no credentials: set it and EVERGREEN_S3_SECRET_KEY, or "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the machine or pod a role"
        )
    return session
