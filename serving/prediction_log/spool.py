"""The log's local disk: append-only files that survive a kill -9 of the process.

One folder a worker, locked by it for life, in it pairs of files: `NNNNNN.rows` with records and
`NNNNNN.tar` with the images that they speak of, each content once. An image is written before its
record, the record by one system call. So what was written is whole in a file or, where the machine
itself died before the kernel wrote its pages, gone; what is cut short is the last. A folder whose lock
is free has lost its worker, and any other worker may adopt it. That images lie in files of their own
makes letting the oldest go one `unlink`.

SpoolRecord: magic, kind, row's length, image's offset in the tar, its size, CRC-32 of these and the row; row (JSON).
"""

import fcntl
import os
import struct
import tempfile
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

from ml.storage import tar_members

SUFFIX: Final = ".tar"
BLOCK: Final = tar_members.HEADER
END: Final = bytes(2 * BLOCK)
_SIZE: Final = slice(124, 136)


class MemberRange(NamedTuple):
    """Where a member's bytes begin in the tar, and how many they are."""

    offset: int
    size: int


class TarWriter:
    """Appends members to a new file; each name once.

    Attributes:
        size: of the file, in bytes.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._places: dict[str, MemberRange] = {}
        self.size = 0

    def add(self, name: str, data: bytes) -> MemberRange:
        """Where `data` lies.

        Raises:
            OSError: the disk refused; nothing of the member is left behind.
        """
        if name in self._places:
            return self._places[name]
        size = len(data)
        length = write(self._fd, [tar_members.header(name, size), data, tar_members.padding(size)], self.size)
        place = self._places[name] = MemberRange(self.size + BLOCK, size)
        self.size += length
        return place

    def close(self) -> None:
        os.close(self._fd)


def write(fd: int, parts: Sequence[bytes], size: int) -> int:
    """Append all of `parts` to a file of `size` bytes by one system call; returns their length.

    Raises:
        OSError: the disk refused; the file is as before.
    """
    length = sum(map(len, parts))
    try:
        written = os.writev(fd, parts)
        if written != length:
            raise OSError(f"{written} of {length} bytes written to the spool: disk full")
    except OSError:
        with suppress(OSError):
            os.ftruncate(fd, size)
        raise
    return length


def finished(path: Path, places: Iterable[MemberRange]) -> bytes:
    """The whole tar of the members at `places`, the same bytes however often it is asked for.

    Raises:
        FileNotFoundError: its images were let go.
    """
    ends = [place.offset + place.size + -place.size % BLOCK for place in places]
    return path.read_bytes()[: max(ends, default=0)] + END


def count(path: Path) -> int:
    """How many members a file has, the cut off one at its end left out."""
    found, position = 0, 0
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while position + BLOCK <= size:
            file.seek(position)
            length = int(file.read(BLOCK)[_SIZE].rstrip(b"\0 ") or b"0", 8)
            position += BLOCK + length + -length % BLOCK
            found += position <= size
    return found


Kind = Literal["prediction", "feedback"]

MAGIC: Final = b"EVG2"
FILE_BYTES: Final = 8_000_000
"""A pair is closed at this size: what one turn of the drain holds in memory."""
_KINDS: Final[dict[Kind, bytes]] = {"prediction": b"p", "feedback": b"f"}
_NAMES: Final[dict[bytes, Kind]] = {byte: kind for kind, byte in _KINDS.items()}
_FIELDS: Final = struct.Struct("<cIQQ")
_HEAD: Final = struct.Struct("<4scIQQI")
_LOCK: Final = "lock"
_ROWS: Final = ".rows"


@dataclass(frozen=True)
class SpoolRecord:
    """A row (JSON); `place` is where its image lies in the pair's tar, None if it has none."""

    kind: Kind
    row: bytes
    place: MemberRange | None


@dataclass(frozen=True)
class Contents:
    """What a file of rows holds; `damaged` counts the places where bytes were no whole record."""

    records: list[SpoolRecord]
    damaged: int


@dataclass
class FilePair:
    """What two files hold, or all closed ones together."""

    rows: int = 0
    row_bytes: int = 0
    image_bytes: int = 0

    @property
    def size(self) -> int:
        return self.row_bytes + self.image_bytes


def encode(kind: Kind, row: bytes, place: MemberRange | None) -> bytes:
    fields = _FIELDS.pack(_KINDS[kind], len(row), *(place or MemberRange(0, 0)))
    return b"".join((MAGIC, fields, struct.pack("<I", zlib.crc32(row, zlib.crc32(fields))), row))


def decode(data: bytes) -> Contents:
    """Every whole record; after damage reading goes on at the next record that is whole."""
    records: list[SpoolRecord] = []
    damaged, position = 0, 0
    while position < len(data):
        record = _record_at(data, position)
        if record:
            records.append(record)
            position += _HEAD.size + len(record.row)
        else:
            damaged += 1
            position = _next_whole(data, position + 1)
    return Contents(records, damaged)


class Spool:
    """This worker's folder. Appending is for many threads, the rest for the drain's one.

    Attributes:
        folder: named after the replica.
    """

    def __init__(self, root: Path, name: str, file_bytes: int = FILE_BYTES) -> None:
        root.mkdir(parents=True, exist_ok=True)
        # Locked before it has its name: a folder that can be seen is locked or orphaned, nothing between.
        temporary = Path(tempfile.mkdtemp(prefix=".", dir=root))
        self._lock_fd = os.open(temporary / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
        self.folder = temporary.rename(root / name)
        self._file_bytes = file_bytes
        self._mutex = threading.Lock()
        self._number, self._fd, self._opened = -1, -1, 0.0
        self._now, self._closed = FilePair(), FilePair()
        self._images: TarWriter | None = None
        self._waiting: dict[Path, FilePair] = {}

    def append(self, kind: Kind, row: bytes, name: str = "", image: bytes = b"") -> None:
        """Write one record, and before it the image under its `name` unless the pair's tar has that already.

        Raises:
            OSError: the disk refused; no record is left behind.
        """
        with self._mutex:
            if self._fd < 0:
                self._open()
            place = self._put(name, image) if image else None
            record = encode(kind, row, place)
            write(self._fd, [record], self._now.row_bytes)
            self._now.row_bytes += len(record)
            self._now.rows += 1
            if self._now.size >= self._file_bytes:
                self._rotate()

    def closed(self, age: float) -> list[Path]:
        """Files of rows to drain, oldest first.

        The open pair is closed if nothing else waits and it is `age` seconds old.
        """
        with self._mutex:
            if not self._waiting and self._now.rows and time.monotonic() - self._opened >= age:
                self._rotate()
            return list(self._waiting)

    def drained(self, path: Path) -> None:
        """The pair's content is stored: delete it."""
        delete(path)
        with self._mutex:
            self._count(self._waiting.pop(path, FilePair()), -1)

    def waiting(self) -> tuple[int, int]:
        """Records and bytes not yet drained."""
        with self._mutex:
            return self._closed.rows + self._now.rows, self._closed.size + self._now.size

    def images_gone(self) -> None:
        """Bring `waiting` up to date after somebody let images go."""
        with self._mutex:
            known = list(self._waiting)
        there = {entry.name for entry in os.scandir(self.folder)}  # answers wait for the mutex: not within it
        gone = [path for path in known if path.with_suffix(SUFFIX).name not in there]
        with self._mutex:
            for pair in [self._waiting[path] for path in gone if path in self._waiting]:  # not drained meanwhile
                self._closed.image_bytes -= pair.image_bytes
                pair.image_bytes = 0

    def close(self) -> None:
        """Let go of the folder; what is left in it is for whoever adopts it."""
        with self._mutex:
            self._rotate()
        if not self._waiting:
            _remove(self.folder)
        os.close(self._lock_fd)

    def _put(self, name: str, image: bytes) -> MemberRange:
        if self._images is None:
            self._images = TarWriter(self._path().with_suffix(SUFFIX))
        place = self._images.add(name, image)
        self._now.image_bytes = self._images.size
        return place

    def _open(self) -> None:
        self._number += 1
        self._fd = os.open(self._path(), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._now, self._opened = FilePair(), time.monotonic()

    def _rotate(self) -> None:
        if self._fd < 0:
            return
        os.close(self._fd)
        if self._images:
            self._images.close()
        self._waiting[self._path()] = self._now
        self._count(self._now, 1)
        self._fd, self._now, self._images = -1, FilePair(), None

    def _count(self, pair: FilePair, sign: int) -> None:
        """Kept as sums, since each answer asks for them."""
        self._closed.rows += sign * pair.rows
        self._closed.row_bytes += sign * pair.row_bytes
        self._closed.image_bytes += sign * pair.image_bytes

    def _path(self) -> Path:
        return self.folder / f"{self._number:06}{_ROWS}"


@contextmanager
def adopted(folder: Path) -> Iterator[list[Path] | None]:
    """The files of rows of a folder without a worker, oldest first, held for the block; None while it has one.

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
        yield rows_files(folder)
        if not rows_files(folder):
            _remove(folder)
    finally:
        os.close(fd)


def rows_files(folder: Path) -> list[Path]:
    """A worker's files of rows, oldest first."""
    return sorted(folder.glob(f"*{_ROWS}"))


def delete(path: Path) -> None:
    """Delete a pair by its file of rows. The images go last: without rows nobody misses them."""
    path.unlink(missing_ok=True)
    path.with_suffix(SUFFIX).unlink(missing_ok=True)


def others(root: Path, own: Path) -> list[Path]:
    """The folders of other workers, living and dead."""
    return [p for p in folders(root) if p != own]


def folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if not p.name.startswith(".") and p.is_dir())


def size(folder: Path) -> int:
    """Bytes waiting in a folder; files that vanish meanwhile count nothing."""
    total = 0
    with suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            with suppress(FileNotFoundError):
                total += entry.stat().st_size
    return total


def _remove(folder: Path) -> None:
    with suppress(OSError):
        for left in folder.glob(f"*{SUFFIX}"):  # of a worker killed before the row was written
            left.unlink()
        (folder / _LOCK).unlink(missing_ok=True)
        folder.rmdir()


def _record_at(data: bytes, position: int) -> SpoolRecord | None:
    if len(data) - position < _HEAD.size:
        return None
    magic, kind, length, offset, image_size, checksum = _HEAD.unpack_from(data, position)
    start = position + _HEAD.size
    if magic != MAGIC or start + length > len(data) or kind not in _NAMES:
        return None
    row = data[start : start + length]
    if zlib.crc32(row, zlib.crc32(_FIELDS.pack(kind, length, offset, image_size))) != checksum:
        return None
    return SpoolRecord(_NAMES[kind], row, MemberRange(offset, image_size) if image_size else None)


def _next_whole(data: bytes, position: int) -> int:
    while (position := data.find(MAGIC, position)) >= 0:
        if _record_at(data, position):
            return position
        position += 1
    return len(data)
