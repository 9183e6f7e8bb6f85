"""Reads many small objects, three times as fast as minio-py.

obstore is a thin layer over Rust's object_store. It does not support every key that S3 allows and does
not work after a fork, so it is only an optimization: whatever it cannot read, for any reason, is read
with minio-py, which also reports the errors.
"""

import os
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from ml.settings import Settings
from ml.storage.credentials import obstore_credentials

if TYPE_CHECKING:
    from obstore.store import S3Store

# Printable ASCII whose path segments are neither empty nor dots: both clients encode such keys in the same way.
_SAFE_KEY: Final = re.compile(r"(?!.*(?:^|/)\.{0,2}(?:/|$))[A-Za-z0-9 !'()*_.,=@+/-]+")


class _Owner:
    """The process that obstore's threads run in; they do not survive a fork."""

    pid: int | None = None


class BulkReader:
    """Read-only access to one bucket."""

    def __init__(self, settings: Settings, bucket: str) -> None:
        self._settings = settings
        self._bucket = bucket
        self._store: S3Store | None = None

    def get(self, key: str) -> bytes | None:
        """The object's bytes; None if minio-py must read it."""
        if not _SAFE_KEY.fullmatch(key):
            return None
        import obstore
        from obstore.exceptions import BaseError

        if _Owner.pid not in (None, os.getpid()):
            return None
        _Owner.pid = os.getpid()
        try:
            return bytes(obstore.get(self._connect(), key).bytes())
        except (BaseError, OSError, ValueError):
            return None

    def _connect(self) -> "S3Store":
        if self._store is None:
            from obstore.store import S3Store

            self._store = S3Store(
                self._bucket,
                endpoint=self._settings.s3_endpoint,
                **self._credentials(),
                region=self._settings.s3_region,
                virtual_hosted_style_request=False,
                client_options={"allow_http": True, "connect_timeout": "3s", "timeout": "60s"},
                # minio-py retries, and reports the error.
                retry_config={
                    "max_retries": 0,
                    "retry_timeout": timedelta(seconds=1),
                    "backoff": {"init_backoff": timedelta(0), "max_backoff": timedelta(0), "base": 2},
                },
            )
        return self._store

    def _credentials(self) -> dict[str, Any]:
        if not self._settings.s3_access_key:
            return {"credential_provider": obstore_credentials()}
        return {
            "access_key_id": self._settings.s3_access_key,
            "secret_access_key": self._settings.s3_secret_key.get_secret_value(),
        }
