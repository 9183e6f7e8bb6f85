"""Encodes images as members of a tar: the bytes that `tarfile` would write, ten times as fast.

Headers are in the USTAR format (POSIX.1-1988) and set only name and size, so the same image under the same
name always gives the same bytes.
"""

import tarfile
from typing import Final

HEADER: Final = tarfile.BLOCKSIZE
_NAME, _SIZE, _CHECKSUM = slice(0, 100), slice(124, 136), slice(148, 156)


def _template() -> tuple[bytes, int]:
    """A header without name, size and checksum, and its contribution to the checksum."""
    header = bytearray(tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT))
    for field in (_NAME, _SIZE, _CHECKSUM):
        header[field] = bytes(field.stop - field.start)
    return bytes(header), sum(header) + 8 * ord(" ")


_TEMPLATE, _TEMPLATE_SUM = _template()


def header(name: str, size: int) -> bytes:
    """The header of a member of `size` bytes; `name` is ASCII, at most 100 characters."""
    name_field, size_field = name.encode("ascii"), b"%011o\0" % size
    checksum = b"%06o\0 " % (_TEMPLATE_SUM + sum(name_field) + sum(size_field))
    return b"".join(
        (name_field.ljust(100, b"\0"), _TEMPLATE[100:124], size_field, _TEMPLATE[136:148], checksum, _TEMPLATE[156:])
    )


def padding(size: int) -> bytes:
    """Zeros that fill the last block of a member of `size` bytes."""
    return bytes(-size % tarfile.BLOCKSIZE)


def encode(sha256: str, image_format: str, data: bytes) -> bytes:
    """Header, image and padding; `image_format` is Pillow's name of the format and gives the file suffix."""
    return b"".join((header(f"{sha256}.{image_format.lower()}", len(data)), data, padding(len(data))))


def member_size(size: int) -> int:
    """Bytes of the member of an image of `size` bytes, with header and padding."""
    return HEADER + size + -size % tarfile.BLOCKSIZE


def end_of_archive(size: int) -> bytes:
    """The end of a tar whose members take `size` bytes: at least two zero blocks, up to a full record."""
    rest = (size + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE
    return bytes(2 * tarfile.BLOCKSIZE + (tarfile.RECORDSIZE - rest if rest else 0))


def blank(tar: bytearray, offset: int, size: int) -> None:
    """Overwrite a member's name and its `size` bytes of data from `offset` on; all other offsets stay valid."""
    tar[offset - HEADER : offset] = header("erased", size)
    tar[offset : offset + size] = bytes(size)
