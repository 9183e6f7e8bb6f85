"""The images of a spool's pair: a tar as it will lie in the bucket, named by content, written member by member."""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from ml import members

SUFFIX: Final = ".tar"
BLOCK: Final = members.HEADER
END: Final = bytes(2 * BLOCK)
_SIZE: Final = slice(124, 136)


class Place(NamedTuple):
    """Where a member's bytes begin in the tar, and how many they are."""

    offset: int
    size: int


class Writer:
    """Appends members to a new file; each name once.

    Attributes:
        size: of the file, in bytes.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._places: dict[str, Place] = {}
        self.size = 0

    def add(self, name: str, data: bytes) -> Place:
        """Where `data` lies.

        Raises:
            OSError: the disk refused; nothing of the member is left behind.
        """
        if name in self._places:
            return self._places[name]
        size = len(data)
        length = write(self._fd, [members.header(name, size), data, members.padding(size)], self.size)
        place = self._places[name] = Place(self.size + BLOCK, size)
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


def finished(path: Path, places: Iterable[Place]) -> bytes:
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
