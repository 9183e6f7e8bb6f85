"""The bytes of a drop's images, wherever they lie: in objects of their own, or inside archives."""

import errno
import io
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import IO, Any, Final, cast

from ml.context import Context
from ml.errors import InvalidInputError, NotFoundError, UnavailableError
from ml.storage import range_reads
from ml.storage.object_store import ObjectInfo, ObjectStore
from ml.storage.range_reads import ByteRange

Found = bytes | UnavailableError | NotFoundError | InvalidInputError
_BUFFER: Final = 1_048_576
_LOCAL: Final = struct.Struct("<4s2xHH16xHH")  # a zip's local header: signature, flags, method, lengths behind it


def images(
    ctx: Context, prefix: str, rows: Sequence[Mapping[str, Any]], pool: Executor | None = None
) -> Iterator[Found]:
    """The encoded image of each row, in order; an error stands in the place of what has one.

    All are asked for when it is called. Memory holds them, so give it a few hundred at once.

    Args:
        rows: `key`, and of a member of an archive `archive`, `offset`, `span`, `size` (`archives.ArchiveMember`).
        pool: `ml.storage.object_store.readers` of the caller's, who asks again and again.
    """
    inside = [row for row in rows if row.get("archive")]
    whole = ctx.labels.get_many((prefix + row["key"] for row in rows if not row.get("archive")), pool)
    parts = range_reads.read(ctx.labels, [ByteRange(prefix + r["archive"], r["offset"], r["span"]) for r in inside])
    return (_cut(next(parts), row) if row.get("archive") else next(whole) for row in rows)


def opened(store: ObjectStore, prefix: str, info: ObjectInfo) -> IO[bytes]:
    """An object as a file that fetches only what is read."""
    return cast("IO[bytes]", io.BufferedReader(_Ranges(store, prefix + info.key, info.size), _BUFFER))


def member(data: bytes, archive: str, size: int) -> bytes:
    """A file from its span of an archive.

    Raises:
        InvalidInputError: the span does not hold it.
    """
    if not archive.lower().endswith(".zip"):
        return _of_size(data, size, archive)
    try:
        signature, flags, method, name, extra = _LOCAL.unpack_from(data)
    except struct.error as error:
        raise InvalidInputError(f"it is not where `{archive}` says") from error
    if signature != b"PK\3\4" or flags & 1:
        raise InvalidInputError(f"it is not where `{archive}` says")
    packed = data[_LOCAL.size + name + extra :]
    if method == 0:
        return _of_size(packed[:size], size, archive)
    try:
        # Never more than the table of contents promised, however much there is.
        return _of_size(zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, size + 1), size, archive)
    except zlib.error as error:
        raise InvalidInputError(f"it cannot be unpacked from `{archive}`: {error}") from error


def _cut(data: memoryview | UnavailableError | NotFoundError, row: Mapping[str, Any]) -> Found:
    if isinstance(data, Exception):
        return data
    try:
        return member(bytes(data), row["archive"], row["size"])
    except InvalidInputError as error:
        return error


def _of_size(data: bytes, size: int, archive: str) -> bytes:
    if len(data) != size:
        raise InvalidInputError(
            f"`{archive}` promises {size} bytes of it and holds {'more' if len(data) > size else len(data)}"
        )
    return data


class _Ranges(io.RawIOBase):
    """A seekable file over an object's ranges."""

    def __init__(self, store: ObjectStore, key: str, size: int) -> None:
        self._store, self._key, self._size, self._at = store, key, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, f"cannot seek to {start + offset}")  # as of any file; zipfile relies on it
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._at)
        if length <= 0:
            return 0
        data = self._store.get(self._key, self._at, length)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
