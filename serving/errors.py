"""An error with its HTTP response, for cases that the errors of `ml.errors` do not cover."""

from collections.abc import Mapping
from typing import Final

from ml.errors import EvergreenError

RETRY: Final = {"retry-after": "1"}


class ProblemError(EvergreenError):
    """An error response.

    Attributes:
        code: short and stable, for programs; the message is for people.
        headers: sent with the response, such as ``Retry-After``.
    """

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, dict(headers or {})
