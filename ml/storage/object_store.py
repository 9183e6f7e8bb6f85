"""The object store: one bucket, plain S3 calls, errors of our own.

minio-py is the client because it was the fastest of the stable ones measured here; where many small
objects are read, obstore helps (docs/decisions/0001).
Only put, get, range, list, copy, delete and multipart are used: they behave alike on every S3
server. Metadata and tags are never relied on.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.commonconfig import CopySource
from minio.deleteobjects import DeleteObject
from minio.error import InvalidResponseError, S3Error
from minio.helpers import MIN_PART_SIZE

from ml.errors import InvalidInputError, NotFoundError, UnavailableError
from ml.settings import Settings
from ml.storage import listing
from ml.storage.bulk_reads import FastReads
from ml.storage.listing import ObjectInfo

__all__ = ["ObjectInfo", "ObjectStore", "connect"]

_SLICE = 8  # keys a thread reads before it is asked for the next: handing over costs as much as a small read
_READERS = 8
_MISSING = {"NoSuchKey", "NoSuchBucket", "NoSuchObject", "InvalidRange", "404"}


def readers() -> ThreadPoolExecutor:
    """Threads for `ObjectStore.get_many`: their start takes as long as a few small reads."""
    return ThreadPoolExecutor(_READERS, "reading")


class ObjectStore:
    """One bucket.

    Every method raises ``NotFoundError`` for a missing object and ``UnavailableError`` when the
    server cannot be reached, refuses the credentials or fails.
    """

    def __init__(self, client: Minio, bucket: str, fast: FastReads | None = None) -> None:
        self._client = client
        self._fast = fast
        self.bucket = bucket

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        """By one request: it is in memory anyway, and an upload in parts that is cut short leaves them behind."""
        size = max(len(data), MIN_PART_SIZE)
        with _Translated(self.bucket, key):
            self._client.put_object(self.bucket, key, io.BytesIO(data), len(data), content_type, part_size=size)

    def put_file(self, key: str, path: Path, content_type: str = "application/octet-stream") -> None:
        with _Translated(self.bucket, key):
            self._client.fput_object(self.bucket, key, str(path), content_type)

    def get(self, key: str, offset: int = 0, length: int = 0) -> bytes:
        """The object's bytes; with ``length``, only that many from ``offset``."""
        with _Translated(self.bucket, key):
            response = self._client.get_object(self.bucket, key, offset, length)
            try:
                data: bytes = response.read()
            finally:
                response.close()
                response.release_conn()
        return data

    def get_file(self, key: str, path: Path) -> None:
        """Download to ``path``; the file appears whole or not at all."""
        with _Translated(self.bucket, key):
            self._client.fget_object(self.bucket, key, str(path))

    def get_many(
        self, keys: Iterable[str], pool: Executor | None = None
    ) -> Iterator[bytes | UnavailableError | NotFoundError]:
        """Each key's bytes in order; an error stands in the place of the object that had it.

        Args:
            keys: all are asked for at once, before the first answer is taken.
            pool: `readers()` of the caller's, who asks again and again.
        """
        wanted = tuple(keys)
        size = max(1, min(_SLICE, len(wanted) // _READERS))
        own = pool or readers()
        slices = own.map(self._get_some, (wanted[i : i + size] for i in range(0, len(wanted), size)))
        if own is not pool:
            own.shutdown(wait=False)
        return chain.from_iterable(slices)

    def info(self, key: str) -> ObjectInfo:
        with _Translated(self.bucket, key):
            stat = self._client.stat_object(self.bucket, key)
        return ObjectInfo(key, stat.size or 0, (stat.etag or "").strip('"'), stat.last_modified)

    def exists(self, key: str) -> bool:
        try:
            self.info(key)
        except NotFoundError:
            return False
        return True

    def list(self, prefix: str = "", recursive: bool = True) -> Iterator[ObjectInfo]:
        """Objects below ``prefix`` in key order; not recursive: folders too, ending in ``/``."""
        with _Translated(self.bucket, prefix):
            yield from listing.below(self._client, self.bucket, prefix, recursive=recursive)

    def copy(self, source: str, target: str, source_bucket: str | None = None) -> None:
        with _Translated(self.bucket, source):
            self._client.copy_object(self.bucket, target, CopySource(source_bucket or self.bucket, source))

    def delete(self, keys: Iterable[str]) -> None:
        """Delete; a key that is not there is no error."""
        with _Translated(self.bucket, "delete"):
            for error in self._client.remove_objects(self.bucket, (DeleteObject(k) for k in keys)):
                raise UnavailableError(f"cannot delete `{error.name}` from bucket `{self.bucket}`: {error.message}")

    def ensure_bucket(self) -> None:
        with _Translated(self.bucket, ""):
            if not self._client.bucket_exists(self.bucket):
                self._client.make_bucket(self.bucket)

    def _get_some(self, keys: Sequence[str]) -> Sequence[bytes | UnavailableError | NotFoundError]:
        return [self._get_or_error(key) for key in keys]

    def _get_or_error(self, key: str) -> bytes | UnavailableError | NotFoundError:
        try:
            found = self._fast.get(key) if self._fast else None
            return self.get(key) if found is None else found
        except (UnavailableError, NotFoundError) as error:
            return error


class _Translated:
    """Turns the client's errors into ours, with the bucket and key in the message."""

    def __init__(self, bucket: str, key: str) -> None:
        self._where = f"s3://{bucket}/{key}"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, S3Error):
            if error.code in _MISSING:
                raise NotFoundError(f"{self._where} does not exist") from error
            raise UnavailableError(f"{self._where}: the object store answered {error.code}: {error.message}") from error
        if isinstance(error, InvalidResponseError):
            # Some servers answer a copy of what is not there with XML that the client does not take as such.
            if "404" in str(error):
                raise NotFoundError(f"{self._where} does not exist") from error
            if "InvalidRange" in str(error):
                raise NotFoundError(f"{self._where} ends before the part that was asked for") from error
            raise UnavailableError(f"{self._where}: the object store answered nonsense: {error}") from error
        if isinstance(error, ValueError):  # a `..` in the key, say: S3 would allow it, the client does not
            raise NotFoundError(f"{self._where} cannot be asked for: {error}") from error
        if isinstance(error, urllib3.exceptions.HTTPError | OSError):
            raise UnavailableError(f"{self._where}: the object store cannot be reached: {error}") from error


def connect(settings: Settings, bucket: str, read_seconds: float = 60, tries: int = 4) -> ObjectStore:
    """A bucket of the configured server; quick tries a call, then an ``UnavailableError``.

    Args:
        read_seconds: without a byte from the server, until a try is given up.

    Raises:
        InvalidInputError: the endpoint is no address, or a credential is empty.
    """
    url = urlsplit(settings.s3_endpoint)
    http = urllib3.PoolManager(
        maxsize=32,
        timeout=urllib3.Timeout(connect=3, read=read_seconds),
        retries=urllib3.Retry(total=tries - 1, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504]),
    )
    try:
        client = Minio(
            endpoint=url.netloc,
            access_key=settings.s3_access_key,
            secret_key=settings.s3_secret_key.get_secret_value(),
            secure=url.scheme == "https",
            region=settings.s3_region,
            http_client=http,
        )
    except ValueError as error:
        raise InvalidInputError(
            f"the S3 client cannot be made: {error}; check EVERGREEN_S3_ENDPOINT (received {settings.s3_endpoint!r}), "
            "EVERGREEN_S3_ACCESS_KEY and EVERGREEN_S3_SECRET_KEY"
        ) from error
    return ObjectStore(client, bucket, FastReads(settings, bucket))
