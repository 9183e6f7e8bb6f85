"""Reads of many small objects, at three times the speed of the client that does all else.

obstore is a thin layer over Rust's object_store. It does not know every key that S3 allows and
cannot be used on after a fork, so it only ever offers: what it cannot read, for whatever reason, the
other client reads, and tells of errors in our words.
"""

import os
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from ml.settings import Settings

if TYPE_CHECKING:
    from obstore.store import S3Store

# Printable ASCII in segments that are neither empty nor dots: what both clients spell alike.
_PLAIN: Final = re.compile(r"(?!.*(?:^|/)\.{0,2}(?:/|$))[A-Za-z0-9 !'()*_.,=@+/-]+")


class _Process:
    """In which process obstore's threads live; they do not come along in a fork."""

    of_threads: int | None = None


class FastReads:
    """One bucket, read only."""

    def __init__(self, settings: Settings, bucket: str) -> None:
        self._settings = settings
        self._bucket = bucket
        self._store: S3Store | None = None

    def get(self, key: str) -> bytes | None:
        """The object's bytes; None: ask the other client."""
        if not _PLAIN.fullmatch(key):
            return None
        import obstore
        from obstore.exceptions import BaseError

        if _Process.of_threads not in (None, os.getpid()):
            return None
        _Process.of_threads = os.getpid()
        try:
            return bytes(obstore.get(self._opened(), key).bytes())
        except (BaseError, OSError, ValueError):
            return None

    def _opened(self) -> "S3Store":
        if self._store is None:
            from obstore.store import S3Store

            self._store = S3Store(
                self._bucket,
                endpoint=self._settings.s3_endpoint,
                access_key_id=self._settings.s3_access_key,
                secret_access_key=self._settings.s3_secret_key.get_secret_value(),
                region=self._settings.s3_region,
                virtual_hosted_style_request=False,
                client_options={"allow_http": True, "connect_timeout": "3s", "timeout": "60s"},
                # The other client tries again, a few times, and then says what is wrong.
                retry_config={
                    "max_retries": 0,
                    "retry_timeout": timedelta(seconds=1),
                    "backoff": {"init_backoff": timedelta(0), "max_backoff": timedelta(0), "base": 2},
                },
            )
        return self._store
