"""Images as members of a tar: the bytes that `tarfile` would write, for a tenth of the time.

The header is that of the USTAR format (POSIX.1-1988) with nothing in it but name and size, so the same
image under the same name is always the same bytes.
"""

import tarfile
from typing import Final

HEADER: Final = tarfile.BLOCKSIZE
_NAME, _SIZE, _SUM = slice(0, 100), slice(124, 136), slice(148, 156)


def _template() -> tuple[bytes, int]:
    """A header without name, size and checksum, and the sum of its bytes as the checksum counts them."""
    header = bytearray(tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT))
    for part in (_NAME, _SIZE, _SUM):
        header[part] = bytes(part.stop - part.start)
    return bytes(header), sum(header) + 8 * ord(" ")


_BLANK, _BLANK_SUM = _template()


def header(name: str, size: int) -> bytes:
    """What stands before a member of `size` bytes; `name` is ASCII, at most 100 characters."""
    called, length = name.encode("ascii"), b"%011o\0" % size
    checksum = b"%06o\0 " % (_BLANK_SUM + sum(called) + sum(length))
    return b"".join((called.ljust(100, b"\0"), _BLANK[100:124], length, _BLANK[136:148], checksum, _BLANK[156:]))


def padding(size: int) -> bytes:
    """What fills the last block of a member of `size` bytes."""
    return bytes(-size % tarfile.BLOCKSIZE)


def encode(sha256: str, kind: str, data: bytes) -> bytes:
    """Header, image and padding; `kind` is Pillow's name of the format, which gives the suffix."""
    return b"".join((header(f"{sha256}.{kind.lower()}", len(data)), data, padding(len(data))))


def span(size: int) -> int:
    """Bytes of the member of an image of `size` bytes, padding included."""
    return HEADER + size + -size % tarfile.BLOCKSIZE


def ending(size: int) -> bytes:
    """What ends a tar whose members take `size` bytes: two empty blocks at the least, up to a whole record."""
    rest = (size + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE
    return bytes(2 * tarfile.BLOCKSIZE + (tarfile.RECORDSIZE - rest if rest else 0))
