"""The object store: one bucket, basic S3 calls, and the errors of `ml.errors`.

Callers depend on the protocol `ObjectStore`; `S3ObjectStore` is a bucket of an S3 server. Its client is minio-py,
the fastest of the stable ones that were measured; many small objects are read with obstore (docs/decisions/0001).
Only put, get, range, list, copy, delete and multipart are used: they behave alike on every S3 server. Metadata and
tags are not used.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Protocol
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
from ml.storage.bulk_reads import BulkReader
from ml.storage.credentials import Boto3Credentials
from ml.storage.listing import ObjectInfo

__all__ = ["ObjectInfo", "ObjectStore", "S3ObjectStore", "connect"]

_SLICE = 8  # keys read per call of a thread: a call costs as much as a small read
_READERS = 8
_NOT_FOUND = {"NoSuchKey", "NoSuchBucket", "NoSuchObject", "InvalidRange", "404"}


class ObjectStore(Protocol):
    """One bucket.

    Every method raises ``NotFoundError`` for a missing object and ``UnavailableError`` when the
    server cannot be reached, refuses the credentials or fails.
    """

    @property
    def bucket(self) -> str:
        """The bucket's name."""

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        """Store an object, in place of an older one with the same key."""

    def put_file(self, key: str, path: Path, content_type: str = "application/octet-stream") -> None:
        """As `put`, from a file of any size."""

    def get(self, key: str, offset: int = 0, length: int = 0) -> bytes:
        """The object's bytes from ``offset`` on; with ``length``, at most that many.

        Raises:
            NotFoundError: also for an ``offset`` at or behind the end of the object.
        """

    def get_file(self, key: str, path: Path) -> None:
        """Download to ``path``; the file appears only when it is complete."""

    def get_many(
        self, keys: Iterable[str], pool: Executor | None = None
    ) -> Iterator[bytes | UnavailableError | NotFoundError]:
        """Each object's bytes in order; an object that cannot be read yields its error instead.

        Args:
            keys: all are requested at once, before the first result is taken.
            pool: a `reader_pool()` to reuse over several calls; None: a new one.
        """

    def info(self, key: str) -> ObjectInfo:
        """Size, ETag and time of an object."""

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""

    def list(self, prefix: str = "", recursive: bool = True) -> Iterator[ObjectInfo]:
        """Objects whose keys begin with ``prefix``, in the order of their keys' UTF-8 bytes.

        If not recursive: only those without a further ``/`` in the key, and the folders: keys that end in ``/``.
        """

    def copy(self, source: str, target: str, source_bucket: str | None = None) -> None:
        """Copy an object, from another bucket of the server if ``source_bucket`` is given."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; a missing key is not an error."""


def reader_pool() -> ThreadPoolExecutor:
    """Threads for `ObjectStore.get_many`; starting them takes as long as a few small reads."""
    return ThreadPoolExecutor(_READERS, "reading")


def read_many(
    read: Callable[[str], bytes], keys: Iterable[str], pool: Executor | None = None
) -> Iterator[bytes | UnavailableError | NotFoundError]:
    """`ObjectStore.get_many` by threads that call `read` with each key."""
    all_keys = tuple(keys)
    size = max(1, min(_SLICE, len(all_keys) // _READERS))

    def read_slice(slice_keys: Sequence[str]) -> Sequence[bytes | UnavailableError | NotFoundError]:
        return [_read_or_error(read, key) for key in slice_keys]

    executor = pool or reader_pool()
    slices = executor.map(read_slice, (all_keys[i : i + size] for i in range(0, len(all_keys), size)))
    if executor is not pool:
        executor.shutdown(wait=False)
    return chain.from_iterable(slices)


def _read_or_error(read: Callable[[str], bytes], key: str) -> bytes | UnavailableError | NotFoundError:
    try:
        return read(key)
    except (UnavailableError, NotFoundError) as error:
        return error


class S3ObjectStore:
    """A bucket of an S3 server; implements `ObjectStore`."""

    def __init__(self, client: Minio, bucket: str, bulk_reader: BulkReader | None = None) -> None:
        self._client = client
        self._bulk_reader = bulk_reader
        self.bucket = bucket

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        """Store in one request: an interrupted multipart upload would leave its parts behind."""
        size = max(len(data), MIN_PART_SIZE)
        with _TranslateErrors(self.bucket, key):
            self._client.put_object(self.bucket, key, io.BytesIO(data), len(data), content_type, part_size=size)

    def put_file(self, key: str, path: Path, content_type: str = "application/octet-stream") -> None:
        with _TranslateErrors(self.bucket, key):
            self._client.fput_object(self.bucket, key, str(path), content_type)

    def get(self, key: str, offset: int = 0, length: int = 0) -> bytes:
        with _TranslateErrors(self.bucket, key):
            response = self._client.get_object(self.bucket, key, offset, length)
            try:
                data: bytes = response.read()
            finally:
                response.close()
                response.release_conn()
        return data

    def get_file(self, key: str, path: Path) -> None:
        with _TranslateErrors(self.bucket, key):
            self._client.fget_object(self.bucket, key, str(path))

    def get_many(
        self, keys: Iterable[str], pool: Executor | None = None
    ) -> Iterator[bytes | UnavailableError | NotFoundError]:
        return read_many(self._get_quickly, keys, pool)

    def info(self, key: str) -> ObjectInfo:
        with _TranslateErrors(self.bucket, key):
            stat = self._client.stat_object(self.bucket, key)
        return ObjectInfo(key, stat.size or 0, (stat.etag or "").strip('"'), stat.last_modified)

    def exists(self, key: str) -> bool:
        try:
            self.info(key)
        except NotFoundError:
            return False
        return True

    def list(self, prefix: str = "", recursive: bool = True) -> Iterator[ObjectInfo]:
        with _TranslateErrors(self.bucket, prefix):
            yield from listing.list_objects(self._client, self.bucket, prefix, recursive=recursive)

    def copy(self, source: str, target: str, source_bucket: str | None = None) -> None:
        with _TranslateErrors(self.bucket, source):
            self._client.copy_object(self.bucket, target, CopySource(source_bucket or self.bucket, source))

    def delete(self, keys: Iterable[str]) -> None:
        with _TranslateErrors(self.bucket, "delete"):
            for error in self._client.remove_objects(self.bucket, (DeleteObject(k) for k in keys)):
                raise UnavailableError(f"cannot delete `{error.name}` from bucket `{self.bucket}`: {error.message}")

    def ensure_bucket(self) -> None:
        """Create the bucket if it does not exist."""
        with _TranslateErrors(self.bucket, ""):
            if not self._client.bucket_exists(self.bucket):
                self._client.make_bucket(self.bucket)

    def _get_quickly(self, key: str) -> bytes:
        data = self._bulk_reader.get(key) if self._bulk_reader else None
        return self.get(key) if data is None else data


class _TranslateErrors:
    """Converts the client's errors to those of `ml.errors`, with the bucket and key in the message."""

    def __init__(self, bucket: str, key: str) -> None:
        self._url = f"s3://{bucket}/{key}"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, S3Error):
            if error.code in _NOT_FOUND:
                raise NotFoundError(f"{self._url} does not exist") from error
            raise UnavailableError(f"{self._url}: the object store answered {error.code}: {error.message}") from error
        if isinstance(error, InvalidResponseError):
            # Some servers answer the copy of a missing object with XML that the client does not recognize.
            if "404" in str(error):
                raise NotFoundError(f"{self._url} does not exist") from error
            if "InvalidRange" in str(error):
                raise NotFoundError(f"{self._url} ends before the requested range") from error
            raise UnavailableError(f"{self._url}: the object store's answer cannot be understood: {error}") from error
        if isinstance(error, ValueError):  # such as `..` in the key, which S3 allows and the client does not
            raise NotFoundError(f"{self._url} is not a valid key: {error}") from error
        if isinstance(error, urllib3.exceptions.HTTPError | OSError):
            raise UnavailableError(f"{self._url}: the object store cannot be reached: {error}") from error


def connect(settings: Settings, bucket: str, read_seconds: float = 60, tries: int = 4) -> S3ObjectStore:
    """A bucket of the configured server; a call is retried quickly, then raises ``UnavailableError``.

    Args:
        read_seconds: read timeout of one try.
        tries: of each call, the first included.

    Raises:
        InvalidInputError: the endpoint is not an address, a credential is empty, or boto3 finds none.
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
            access_key=settings.s3_access_key or None,
            secret_key=settings.s3_secret_key.get_secret_value() or None,
            credentials=None if settings.s3_access_key else Boto3Credentials(),
            secure=url.scheme == "https",
            region=settings.s3_region,
            http_client=http,
        )
    except ValueError as error:
        raise InvalidInputError(
            f"the S3 client cannot be created: {error}; check EVERGREEN_S3_ENDPOINT (received "
            f"{settings.s3_endpoint!r}), EVERGREEN_S3_ACCESS_KEY and EVERGREEN_S3_SECRET_KEY"
        ) from error
    return S3ObjectStore(client, bucket, BulkReader(settings, bucket))
