"""Reads the bytes of a drop's images from objects and from archives."""

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

ImageResult = bytes | UnavailableError | NotFoundError | InvalidInputError
_BUFFER: Final = 1_048_576
_LOCAL_HEADER: Final = struct.Struct("<4s2xHH16xHH")  # of a zip: signature, flags, method, name and extra length


def images(
    ctx: Context, prefix: str, rows: Sequence[Mapping[str, Any]], pool: Executor | None = None
) -> Iterator[ImageResult]:
    """The encoded image of each row, in order; an image that cannot be read yields its error instead.

    All are requested at once and held in memory, so pass at most a few hundred rows.

    Args:
        rows: `key`, and for a member of an archive `archive`, `offset`, `span`, `size` (`archives.ArchiveMember`).
        pool: an `ml.storage.object_store.reader_pool` to reuse over several calls.
    """
    member_rows = [row for row in rows if row.get("archive")]
    objects = ctx.labels.get_many((prefix + row["key"] for row in rows if not row.get("archive")), pool)
    members = range_reads.read(
        ctx.labels, [ByteRange(prefix + r["archive"], r["offset"], r["span"]) for r in member_rows]
    )
    return (_extract(next(members), row) if row.get("archive") else next(objects) for row in rows)


def open_object(store: ObjectStore, prefix: str, info: ObjectInfo) -> IO[bytes]:
    """Open an object as a seekable file that fetches only what is read."""
    return cast("IO[bytes]", io.BufferedReader(_ObjectFile(store, prefix + info.key, info.size), _BUFFER))


def member(data: bytes, archive: str, size: int) -> bytes:
    """Extract a file from its span of an archive.

    Raises:
        InvalidInputError: the span does not hold the file.
    """
    if not archive.lower().endswith(".zip"):
        return _check_size(data, size, archive)
    try:
        signature, flags, method, name_length, extra_length = _LOCAL_HEADER.unpack_from(data)
    except struct.error as error:
        raise InvalidInputError(f"it is not where the table of contents of `{archive}` says") from error
    if signature != b"PK\3\4" or flags & 1:
        raise InvalidInputError(f"it is not where the table of contents of `{archive}` says")
    compressed = data[_LOCAL_HEADER.size + name_length + extra_length :]
    if method == 0:
        return _check_size(compressed[:size], size, archive)
    try:
        # Decompresses at most one byte more than the declared size.
        return _check_size(zlib.decompressobj(-zlib.MAX_WBITS).decompress(compressed, size + 1), size, archive)
    except zlib.error as error:
        raise InvalidInputError(f"it cannot be decompressed from `{archive}`: {error}") from error


def _extract(data: memoryview | UnavailableError | NotFoundError, row: Mapping[str, Any]) -> ImageResult:
    if isinstance(data, Exception):
        return data
    try:
        return member(bytes(data), row["archive"], row["size"])
    except InvalidInputError as error:
        return error


def _check_size(data: bytes, size: int, archive: str) -> bytes:
    if len(data) != size:
        raise InvalidInputError(
            f"`{archive}` declares {size} bytes for it and holds {'more' if len(data) > size else len(data)}"
        )
    return data


class _ObjectFile(io.RawIOBase):
    """A seekable read-only file over an object."""

    def __init__(self, store: ObjectStore, key: str, size: int) -> None:
        self._store, self._key, self._size, self._position = store, key, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, f"cannot seek to {start + offset}")  # as for any file; zipfile relies on it
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._position)
        if length <= 0:
            return 0
        data = self._store.get(self._key, self._position, length)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
