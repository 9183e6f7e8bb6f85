"""Object stores for tests: one in memory, and one that forwards every call, to be overridden where a test needs it."""

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from datetime import UTC, datetime
from pathlib import Path

from ml.errors import NotFoundError, UnavailableError
from ml.storage.object_store import ObjectInfo, ObjectStore, read_many

_MODIFIED = datetime(2026, 1, 1, tzinfo=UTC)


class MemoryObjectStore:
    """Objects in a dict; behaves as `S3ObjectStore` does (tests/contracts/object_store.py).

    Args:
        server: the buckets between which objects can be copied, by name; the new one is added.

    Attributes:
        objects: bytes by key; a test may change them.
        read_keys: the key of every `get`, in order.
        available: if False, every call raises `UnavailableError`.
    """

    def __init__(
        self,
        objects: dict[str, bytes] | None = None,
        bucket: str = "memory",
        server: dict[str, "MemoryObjectStore"] | None = None,
    ) -> None:
        self.bucket = bucket
        self.objects = {} if objects is None else objects
        self.read_keys: list[str] = []
        self.available = True
        self._server = {} if server is None else server
        self._server[bucket] = self

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        self._check(key)
        self.objects[key] = bytes(data)

    def put_file(self, key: str, path: Path, content_type: str = "application/octet-stream") -> None:
        self.put(key, path.read_bytes(), content_type)

    def get(self, key: str, offset: int = 0, length: int = 0) -> bytes:
        self.read_keys.append(key)
        data = self._find(key)
        if (offset or length) and offset >= len(data):
            raise NotFoundError(f"s3://{self.bucket}/{key} ends before the requested range")
        return data[offset : offset + length] if length else data[offset:]

    def get_file(self, key: str, path: Path) -> None:
        path.write_bytes(self.get(key))

    def get_many(
        self, keys: Iterable[str], pool: Executor | None = None
    ) -> Iterator[bytes | UnavailableError | NotFoundError]:
        return read_many(self.get, keys, pool)

    def info(self, key: str) -> ObjectInfo:
        data = self._find(key)
        return ObjectInfo(key, len(data), hashlib.md5(data).hexdigest(), _MODIFIED)

    def exists(self, key: str) -> bool:
        try:
            self._find(key)
        except NotFoundError:
            return False
        return True

    def list(self, prefix: str = "", recursive: bool = True) -> Iterator[ObjectInfo]:
        self._check_available(prefix)
        # As of now, like a page of a server: objects may be deleted while the caller goes on.
        infos = [self.info(key) for key in sorted(self.objects) if key.startswith(prefix)]
        folders: dict[str, None] = {}
        for info in infos:
            name, slash, _ = info.key.removeprefix(prefix).partition("/")
            if slash and not recursive:
                folders[prefix + name + slash] = None
            else:
                yield info
        yield from (ObjectInfo(folder, 0, "", None) for folder in folders)

    def copy(self, source: str, target: str, source_bucket: str | None = None) -> None:
        self._check(target)
        store = self._server.get(source_bucket or self.bucket)
        if store is None:
            raise NotFoundError(f"s3://{source_bucket}/{source} does not exist")
        self.objects[target] = store._find(source)

    def delete(self, keys: Iterable[str]) -> None:
        self._check_available("")
        for key in keys:
            self.objects.pop(key, None)

    def _find(self, key: str) -> bytes:
        self._check(key)
        try:
            return self.objects[key]
        except KeyError:
            raise NotFoundError(f"s3://{self.bucket}/{key} does not exist") from None

    def _check(self, key: str) -> None:
        self._check_available(key)
        if not key or not {".", ".."}.isdisjoint(key.split("/")):
            raise NotFoundError(f"s3://{self.bucket}/{key} is not a valid key")

    def _check_available(self, key: str) -> None:
        if not self.available:
            raise UnavailableError(f"s3://{self.bucket}/{key}: the object store cannot be reached")


class ForwardingObjectStore:
    """Forwards every call to another store; subclasses override what a test wants to see or to fail."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner

    @property
    def bucket(self) -> str:
        return self.inner.bucket

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        self.inner.put(key, data, content_type)

    def put_file(self, key: str, path: Path, content_type: str = "application/octet-stream") -> None:
        self.inner.put_file(key, path, content_type)

    def get(self, key: str, offset: int = 0, length: int = 0) -> bytes:
        return self.inner.get(key, offset, length)

    def get_file(self, key: str, path: Path) -> None:
        self.inner.get_file(key, path)

    def get_many(
        self, keys: Iterable[str], pool: Executor | None = None
    ) -> Iterator[bytes | UnavailableError | NotFoundError]:
        return self.inner.get_many(keys, pool)

    def info(self, key: str) -> ObjectInfo:
        return self.inner.info(key)

    def exists(self, key: str) -> bool:
        return self.inner.exists(key)

    def list(self, prefix: str = "", recursive: bool = True) -> Iterator[ObjectInfo]:
        return self.inner.list(prefix, recursive)

    def copy(self, source: str, target: str, source_bucket: str | None = None) -> None:
        self.inner.copy(source, target, source_bucket)

    def delete(self, keys: Iterable[str]) -> None:
        self.inner.delete(keys)
