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


def encode(sha256: str, kind: str, data: bytes) -> bytes:
    """Header, image and padding; `kind` is Pillow's name of the format, which gives the suffix."""
    name, size = f"{sha256}.{kind.lower()}".encode(), b"%011o\0" % len(data)
    checksum = b"%06o\0 " % (_BLANK_SUM + sum(name) + sum(size))
    return b"".join(
        (
            name.ljust(100, b"\0"),
            _BLANK[100:124],
            size,
            _BLANK[136:148],
            checksum,
            _BLANK[156:],
            data,
            bytes(-len(data) % tarfile.BLOCKSIZE),
        )
    )


def span(size: int) -> int:
    """Bytes of the member of an image of `size` bytes, padding included."""
    return HEADER + size + -size % tarfile.BLOCKSIZE


def ending(size: int) -> bytes:
    """What ends a tar whose members take `size` bytes: two empty blocks at the least, up to a whole record."""
    rest = (size + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE
    return bytes(2 * tarfile.BLOCKSIZE + (tarfile.RECORDSIZE - rest if rest else 0))
