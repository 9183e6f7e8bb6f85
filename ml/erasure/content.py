"""What is erased, what a sweep of a store found, and the search of a bucket by content."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from ml.errors import NotFoundError
from ml.storage.object_store import ObjectInfo, ObjectStore

_BATCH_BYTES: Final = 32_000_000
_BATCH: Final = 256
_READ: Final = 8_000_000


@dataclass(frozen=True)
class Content:
    """Images, by the SHA-256 of their encoded bytes.

    Attributes:
        sizes: in bytes, of all of them: only objects of these sizes are read; None if one is unknown.
    """

    hashes: frozenset[str]
    sizes: frozenset[int] | None = None

    def may_have(self, size: int) -> bool:
        """Whether something of this size can be one of them."""
        return size > 0 and (self.sizes is None or size in self.sizes)

    def has(self, data: bytes) -> bool:
        return hashlib.sha256(data).hexdigest() in self.hashes


@dataclass(frozen=True)
class Swept:
    """What a sweep removed from a store or, as a scan, found there.

    Attributes:
        objects: objects deleted or rewritten, and files on disk.
        bytes: of the images in them; of whole objects where these were deleted.
        rows: rows of Postgres.
        left: sentences: what could not be removed, and why.
        notes: sentences: what a person should know.
    """

    objects: int = 0
    bytes: int = 0
    rows: int = 0
    left: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __add__(self, other: "Swept") -> "Swept":
        return Swept(
            self.objects + other.objects,
            self.bytes + other.bytes,
            self.rows + other.rows,
            (*self.left, *other.left),
            (*self.notes, *other.notes),
        )


def matching(store: ObjectStore, infos: Iterable[ObjectInfo], content: Content) -> Iterator[ObjectInfo]:
    """Those of the objects that are one of the images. Memory holds about 32 MB of them.

    Raises:
        UnavailableError: the bucket does not answer.
    """
    batch: list[ObjectInfo] = []
    for info in infos:
        if not content.may_have(info.size):
            continue
        if info.size > _READ:
            if _digest(store, info) in content.hashes:
                yield info
            continue
        batch.append(info)
        if len(batch) == _BATCH or sum(i.size for i in batch) > _BATCH_BYTES:
            yield from _matching(store, batch, content)
            batch = []
    yield from _matching(store, batch, content)


def _matching(store: ObjectStore, batch: list[ObjectInfo], content: Content) -> Iterator[ObjectInfo]:
    for info, data in zip(batch, store.get_many([i.key for i in batch]), strict=True):
        if isinstance(data, NotFoundError):
            continue
        if isinstance(data, Exception):
            raise data
        if content.has(data):
            yield info


def _digest(store: ObjectStore, info: ObjectInfo) -> str:
    digest = hashlib.sha256()
    for start in range(0, info.size, _READ):
        try:
            digest.update(store.get(info.key, start, min(_READ, info.size - start)))
        except NotFoundError:  # deleted meanwhile
            return ""
    return digest.hexdigest()
