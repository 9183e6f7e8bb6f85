"""The prediction log's spool: append-only local files that survive a kill -9 of the process.

Each worker has a folder, locked while it lives, with pairs of files: `NNNNNN.rows` with records and
`NNNNNN.tar` with their images, each content once. An image is written before its record, the record by
one system call. So what was written is complete in a file or, if the machine itself crashed before the
kernel wrote its pages, lost; only the last record can be truncated. A folder whose lock is free has lost
its worker, and any other worker may adopt it. Since images are in separate files, dropping the oldest
takes one `unlink`.

Record: magic, kind, row's length, image's offset in the tar, its size, CRC-32 of these and the row; row (JSON).
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
    """Offset and size of a member's bytes in the tar."""

    offset: int
    size: int


class TarWriter:
    """Appends members to a new tar file; each name once.

    Attributes:
        size: of the file, in bytes.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._members: dict[str, MemberRange] = {}
        self.size = 0

    def add(self, name: str, data: bytes) -> MemberRange:
        """Append a member unless the name exists; returns where its data is.

        Raises:
            OSError: writing failed; nothing of the member is left behind.
        """
        if name in self._members:
            return self._members[name]
        size = len(data)
        length = write(self._fd, [tar_members.header(name, size), data, tar_members.padding(size)], self.size)
        member = self._members[name] = MemberRange(self.size + BLOCK, size)
        self.size += length
        return member

    def close(self) -> None:
        os.close(self._fd)


def write(fd: int, parts: Sequence[bytes], size: int) -> int:
    """Append all of `parts` to a file of `size` bytes by one system call; returns their length.

    Raises:
        OSError: writing failed; the file is unchanged.
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


def finished_tar(path: Path, members: Iterable[MemberRange]) -> bytes:
    """The complete tar of `members`; the same bytes at every call.

    Raises:
        FileNotFoundError: its images were dropped.
    """
    ends = [member.offset + member.size + -member.size % BLOCK for member in members]
    return path.read_bytes()[: max(ends, default=0)] + END


def count(path: Path) -> int:
    """The number of complete members in a tar."""
    members, position = 0, 0
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while position + BLOCK <= size:
            file.seek(position)
            length = int(file.read(BLOCK)[_SIZE].rstrip(b"\0 ") or b"0", 8)
            position += BLOCK + length + -length % BLOCK
            members += position <= size
    return members


Kind = Literal["prediction", "feedback"]

MAGIC: Final = b"EVG2"
FILE_BYTES: Final = 8_000_000
"""A pair is closed at this size; the uploader holds one pair in memory."""
_KINDS: Final[dict[Kind, bytes]] = {"prediction": b"p", "feedback": b"f"}
_NAMES: Final[dict[bytes, Kind]] = {byte: kind for kind, byte in _KINDS.items()}
_FIELDS: Final = struct.Struct("<cIQQ")
_HEAD: Final = struct.Struct("<4scIQQI")
_LOCK: Final = "lock"
_ROWS: Final = ".rows"


@dataclass(frozen=True)
class SpoolRecord:
    """A row (JSON); `member` is where its image is in the pair's tar, None if it has none."""

    kind: Kind
    row: bytes
    member: MemberRange | None


@dataclass(frozen=True)
class Contents:
    """The records of a file of rows; `damaged` counts the places without a valid record."""

    records: list[SpoolRecord]
    damaged: int


@dataclass
class FilePair:
    """Totals of one pair of files, or of all closed ones."""

    rows: int = 0
    row_bytes: int = 0
    image_bytes: int = 0

    @property
    def size(self) -> int:
        return self.row_bytes + self.image_bytes


def encode(kind: Kind, row: bytes, member: MemberRange | None) -> bytes:
    fields = _FIELDS.pack(_KINDS[kind], len(row), *(member or MemberRange(0, 0)))
    return b"".join((MAGIC, fields, struct.pack("<I", zlib.crc32(row, zlib.crc32(fields))), row))


def decode(data: bytes) -> Contents:
    """Every valid record; after damage, reading continues at the next valid record."""
    records: list[SpoolRecord] = []
    damaged, position = 0, 0
    while position < len(data):
        record = _record_at(data, position)
        if record:
            records.append(record)
            position += _HEAD.size + len(record.row)
        else:
            damaged += 1
            position = _next_record(data, position + 1)
    return Contents(records, damaged)


class Spool:
    """This worker's folder. Any thread may append; the other methods are for the uploader's thread.

    Attributes:
        folder: named after the replica.
    """

    def __init__(self, root: Path, name: str, file_bytes: int = FILE_BYTES) -> None:
        root.mkdir(parents=True, exist_ok=True)
        # Locked before it gets its name, so that every visible folder is either locked or orphaned.
        temporary = Path(tempfile.mkdtemp(prefix=".", dir=root))
        self._lock_fd = os.open(temporary / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
        self.folder = temporary.rename(root / name)
        self._file_bytes = file_bytes
        self._mutex = threading.Lock()
        self._number, self._fd, self._opened = -1, -1, 0.0
        self._current, self._closed = FilePair(), FilePair()
        self._images: TarWriter | None = None
        self._pending: dict[Path, FilePair] = {}

    def append(self, kind: Kind, row: bytes, name: str = "", image: bytes = b"") -> None:
        """Write the image under its `name`, unless the pair's tar has it already, and then the record.

        Raises:
            OSError: writing failed; no record is left behind.
        """
        with self._mutex:
            if self._fd < 0:
                self._open()
            member = self._add_image(name, image) if image else None
            record = encode(kind, row, member)
            write(self._fd, [record], self._current.row_bytes)
            self._current.row_bytes += len(record)
            self._current.rows += 1
            if self._current.size >= self._file_bytes:
                self._rotate()

    def closed_files(self, age: float) -> list[Path]:
        """Closed files of rows to upload, oldest first.

        The open pair is closed first if no other is pending and it is `age` seconds old.
        """
        with self._mutex:
            if not self._pending and self._current.rows and time.monotonic() - self._opened >= age:
                self._rotate()
            return list(self._pending)

    def rotate(self) -> None:
        """Close the open pair, so that what was appended so far is in closed files."""
        with self._mutex:
            self._rotate()

    def remove(self, path: Path) -> None:
        """Delete a pair that has been stored."""
        delete(path)
        with self._mutex:
            self._add_to_totals(self._pending.pop(path, FilePair()), -1)

    def pending(self) -> tuple[int, int]:
        """Records and bytes not yet stored."""
        with self._mutex:
            return self._closed.rows + self._current.rows, self._closed.size + self._current.size

    def refresh_image_bytes(self) -> None:
        """Update the pending bytes after images were dropped by any worker."""
        with self._mutex:
            pairs = list(self._pending)
        names = {entry.name for entry in os.scandir(self.folder)}  # predictions wait for the mutex: not within it
        gone = [path for path in pairs if path.with_suffix(SUFFIX).name not in names]
        with self._mutex:
            for pair in [self._pending[path] for path in gone if path in self._pending]:  # not stored meanwhile
                self._closed.image_bytes -= pair.image_bytes
                pair.image_bytes = 0

    def close(self) -> None:
        """Release the folder; another worker adopts what is left in it."""
        with self._mutex:
            self._rotate()
        if not self._pending:
            _remove(self.folder)
        os.close(self._lock_fd)

    def _add_image(self, name: str, image: bytes) -> MemberRange:
        if self._images is None:
            self._images = TarWriter(self._path().with_suffix(SUFFIX))
        member = self._images.add(name, image)
        self._current.image_bytes = self._images.size
        return member

    def _open(self) -> None:
        self._number += 1
        self._fd = os.open(self._path(), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._current, self._opened = FilePair(), time.monotonic()

    def _rotate(self) -> None:
        if self._fd < 0:
            return
        os.close(self._fd)
        if self._images:
            self._images.close()
        self._pending[self._path()] = self._current
        self._add_to_totals(self._current, 1)
        self._fd, self._current, self._images = -1, FilePair(), None

    def _add_to_totals(self, pair: FilePair, sign: int) -> None:
        """Maintain the totals, which every prediction reads."""
        self._closed.rows += sign * pair.rows
        self._closed.row_bytes += sign * pair.row_bytes
        self._closed.image_bytes += sign * pair.image_bytes

    def _path(self) -> Path:
        return self.folder / f"{self._number:06}{_ROWS}"


@contextmanager
def adopt(folder: Path) -> Iterator[list[Path] | None]:
    """Adopt a folder without a worker for the block: its files of rows, oldest first; None while it has a worker.

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
    """Delete a pair by its file of rows. The images go last: without rows nothing refers to them."""
    path.unlink(missing_ok=True)
    path.with_suffix(SUFFIX).unlink(missing_ok=True)


def other_folders(root: Path, except_folder: Path) -> list[Path]:
    """The folders of other workers, living and dead."""
    return [p for p in folders(root) if p != except_folder]


def folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if not p.name.startswith(".") and p.is_dir())


def size(folder: Path) -> int:
    """Bytes in a folder, without files that are deleted meanwhile."""
    total = 0
    with suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            with suppress(FileNotFoundError):
                total += entry.stat().st_size
    return total


def _remove(folder: Path) -> None:
    with suppress(OSError):
        for tar in folder.glob(f"*{SUFFIX}"):  # of a worker killed before the row was written
            tar.unlink()
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


def _next_record(data: bytes, position: int) -> int:
    while (position := data.find(MAGIC, position)) >= 0:
        if _record_at(data, position):
            return position
        position += 1
    return len(data)
