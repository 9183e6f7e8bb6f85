"""The prediction log's local disk: append-only files that survive a kill -9 of the process.

One folder a worker, locked by it for life. A record is written by one system call before its answer
is sent, so every answered prediction is either whole in a file or, where the machine itself died
before the kernel wrote its pages, gone; a record cut short belongs to an answer never sent. A folder
whose lock is free has lost its worker, and any other worker may adopt it.

Record: magic, header length, image length, CRC-32 of all that follows and of the lengths, header, image.
"""

import fcntl
import os
import struct
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAGIC: Final = b"EVG1"
_LENGTHS: Final = struct.Struct("<II")
_HEAD: Final = struct.Struct("<4sIII")
_LOCK: Final = "lock"
FILE_BYTES: Final = 8_000_000
"""A file is closed at this size: what one turn of the drain holds in memory."""


@dataclass(frozen=True)
class Record:
    """A header (JSON) and the image it speaks of; an empty image was not kept."""

    header: bytes
    image: bytes


@dataclass(frozen=True)
class Contents:
    """What a file holds; `damaged` counts the places where bytes were no whole record."""

    records: list[Record]
    damaged: int


def head(header: bytes, image: bytes) -> bytes:
    lengths = _LENGTHS.pack(len(header), len(image))
    return _HEAD.pack(MAGIC, len(header), len(image), zlib.crc32(image, zlib.crc32(header, zlib.crc32(lengths))))


def read(path: Path) -> Contents:
    """Every whole record; after damage reading goes on at the next record that is whole."""
    data = path.read_bytes()
    records: list[Record] = []
    damaged, position = 0, 0
    while position < len(data):
        record = _record_at(data, position)
        if record:
            records.append(record)
            position += _HEAD.size + len(record.header) + len(record.image)
        else:
            damaged += 1
            position = _next_whole(data, position + 1)
    return Contents(records, damaged)


class Spool:
    """This worker's folder. Appending is for many threads, the rest for the drain's one.

    Attributes:
        folder: named after the replica.
    """

    def __init__(self, root: Path, name: str) -> None:
        root.mkdir(parents=True, exist_ok=True)
        # Locked before it has its name: a folder that can be seen is locked or orphaned, nothing between.
        temporary = Path(tempfile.mkdtemp(prefix=".", dir=root))
        self._lock_fd = os.open(temporary / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
        self.folder = temporary.rename(root / name)
        self._mutex = threading.Lock()
        self._number, self._fd, self._size, self._rows = -1, -1, 0, 0
        self._opened = 0.0
        self._waiting: dict[Path, tuple[int, int]] = {}

    def append(self, header: bytes, image: bytes) -> None:
        """Write one record.

        Raises:
            OSError: the disk refused; nothing of the record is left behind.
        """
        parts = [head(header, image), header, image]
        length = sum(map(len, parts))
        with self._mutex:
            if self._fd < 0:
                self._open()
            try:
                written = os.writev(self._fd, parts)
                if written != length:
                    raise OSError(f"{written} of {length} bytes written to {self.folder}: disk full")
            except OSError:
                with suppress(OSError):
                    os.ftruncate(self._fd, self._size)
                raise
            self._size += length
            self._rows += 1
            if self._size >= FILE_BYTES:
                self._rotate()

    def closed(self, age: float) -> list[Path]:
        """Files to drain, oldest first; the open one is closed if nothing else waits and it is `age` seconds old."""
        with self._mutex:
            if not self._waiting and self._rows and time.monotonic() - self._opened >= age:
                self._rotate()
            return list(self._waiting)

    def drained(self, path: Path) -> None:
        """The file's records are stored: delete it."""
        path.unlink(missing_ok=True)
        with self._mutex:
            self._waiting.pop(path, None)

    def waiting(self) -> tuple[int, int]:
        """Rows and bytes not yet drained."""
        with self._mutex:
            return (
                self._rows + sum(rows for rows, _ in self._waiting.values()),
                self._size + sum(size for _, size in self._waiting.values()),
            )

    def close(self) -> None:
        """Let go of the folder; what is left in it is for whoever adopts it."""
        with self._mutex:
            self._rotate()
        if not self._waiting:
            _remove(self.folder)
        os.close(self._lock_fd)

    def _open(self) -> None:
        self._number += 1
        self._fd = os.open(self._path(), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._size, self._rows, self._opened = 0, 0, time.monotonic()

    def _rotate(self) -> None:
        if self._fd < 0:
            return
        os.close(self._fd)
        self._waiting[self._path()] = (self._rows, self._size)
        self._fd, self._size, self._rows = -1, 0, 0

    def _path(self) -> Path:
        return self.folder / f"{self._number:06}.log"


@contextmanager
def adopted(folder: Path) -> Iterator[list[Path] | None]:
    """The files of a folder without a worker, oldest first, held for the block; None while it has one.

    The folder is removed when the block has deleted its files.
    """
    try:
        fd = os.open(folder / _LOCK, os.O_RDWR)
    except (FileNotFoundError, NotADirectoryError):
        yield None
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_ino != (folder / _LOCK).stat().st_ino:
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError):
            yield None
            return
        yield sorted(folder.glob("*.log"))
        if not any(folder.glob("*.log")):
            _remove(folder)
    finally:
        os.close(fd)


def others(root: Path, own: Path) -> list[Path]:
    """The folders of other workers, living and dead."""
    return sorted(p for p in root.iterdir() if p != own and not p.name.startswith(".") and p.is_dir())


def size(folder: Path) -> int:
    """Bytes waiting in a folder; files that vanish meanwhile count nothing."""
    total = 0
    for path in folder.glob("*.log"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _remove(folder: Path) -> None:
    with suppress(OSError):
        (folder / _LOCK).unlink(missing_ok=True)
        folder.rmdir()


def _record_at(data: bytes, position: int) -> Record | None:
    if len(data) - position < _HEAD.size:
        return None
    magic, header_length, image_length, checksum = _HEAD.unpack_from(data, position)
    start = position + _HEAD.size
    if magic != MAGIC or start + header_length + image_length > len(data):
        return None
    record = Record(data[start : start + header_length], data[start + header_length :][:image_length])
    lengths = _LENGTHS.pack(header_length, image_length)
    if zlib.crc32(record.image, zlib.crc32(record.header, zlib.crc32(lengths))) != checksum:
        return None
    return record


def _next_whole(data: bytes, position: int) -> int:
    while (position := data.find(MAGIC, position)) >= 0:
        if _record_at(data, position):
            return position
        position += 1
    return len(data)
