"""Checks of an image's encoded bytes before a decoder reads them.

Pillow checks most headers itself. This module covers the cases in which Pillow's own check is already
expensive, and files that are an image and another file type at once.
"""

import struct
from collections.abc import Callable
from typing import Final

import numpy as np

from ml.errors import ImageRejectedError

_MAX_SCANS: Final = 100  # a typical progressive JPEG has 10; each costs a pass over all pixels
_MAX_VALUES: Final = 200_000  # of one TIFF tag; 40 megapixels in 16×16 tiles need 156,250
_MAX_PREAMBLE: Final = 1_000_000  # bytes of comments and extensions before a GIF's first frame
_ZIP_END: Final = b"PK\x05\x06"
_ZIP_TAIL: Final = 22 + 65_535  # a ZIP's end record and the longest comment that may follow it
_EMBEDDED_TYPES: Final = {
    b"%pdf-": "PDF",
    b"<!doctype html": "HTML",
    b"<html": "HTML",
    b"<script": "HTML",
    b"<svg": "SVG",
}
_VALUE_SIZES: Final = {
    3: 2,
    4: 4,
    5: 8,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}  # TIFF type → bytes


def check(data: bytes, max_pixels: int) -> None:
    """Reject bytes that no decoder should be given.

    Args:
        data: the encoded image, not empty.
        max_pixels: the largest canvas that a decoder may allocate while it reads the header.

    Raises:
        ImageRejectedError: ``disguised``, ``too_many_parts`` or ``too_many_pixels``.
    """
    if data.startswith(_IMAGE_MAGICS):
        _reject_polyglot(data)
    for magic, check_format in _CHECKS.items():
        if data.startswith(magic):
            check_format(data, max_pixels)


def conversion_hint(data: bytes) -> str:
    """How to convert a file of an unsupported format, for the error message; empty if the format is unknown."""
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return ": it looks like HEIC; save it as JPEG or AVIF"
    return ""


def _reject_polyglot(data: bytes) -> None:
    head = data[:1024].lower()
    for mark, kind in _EMBEDDED_TYPES.items():
        if mark in head:
            raise ImageRejectedError("disguised", f"the file is an image and {kind} at once: `{mark.decode()}` in it")
    at = data.rfind(_ZIP_END, max(0, len(data) - _ZIP_TAIL))
    if at >= 0 and data[at + 20 : at + 22] == struct.pack("<H", len(data) - at - 22):
        raise ImageRejectedError("disguised", "the file is an image and a ZIP archive at once")


def _check_jpeg(data: bytes, max_pixels: int) -> None:
    del max_pixels
    # Inside compressed data 0xFF is always followed by 0x00, so this counts scans (and those of thumbnails).
    octets = np.frombuffer(data, np.uint8)  # bytes.count takes six times as long
    scans = np.count_nonzero((octets[:-1] == 0xFF) & (octets[1:] == 0xDA))
    if scans > _MAX_SCANS:
        raise ImageRejectedError("too_many_parts", f"a JPEG of {scans} scans, at most {_MAX_SCANS} are accepted")


def _check_webp(data: bytes, max_pixels: int) -> None:
    kind = data[12:16]
    if data[8:12] != b"WEBP" or len(data) < 30:
        return
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (24, 27))
    elif kind == b"VP8L":
        packed = int.from_bytes(data[21:25], "little")
        width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    else:
        width, height = (int.from_bytes(data[i : i + 2], "little") & 0x3FFF for i in (26, 28))
    check_pixel_count(width, height, max_pixels)


def _check_gif(data: bytes, max_pixels: int) -> None:
    """Skip to the first frame as the decoder does; the decoder's time grows faster than the number of comments."""
    del max_pixels
    at = 13 + (3 << (data[10] & 7) + 1 if len(data) > 10 and data[10] & 0x80 else 0)
    while at < len(data) and data[at] == 0x21:
        at += 2
        while at < len(data) and data[at]:
            at += 1 + data[at]
            if at > _MAX_PREAMBLE:
                raise ImageRejectedError(
                    "too_many_parts",
                    f"a GIF whose first picture comes after more than {_MAX_PREAMBLE} bytes of comments",
                )
        at += 1


def _check_tiff(data: bytes, max_pixels: int) -> None:
    """Check how many values the tags of the first directory declare."""
    del max_pixels
    order = "<" if data[:2] == b"II" else ">"
    large = struct.unpack_from(f"{order}H", data, 2)[0] == 43  # BigTIFF: 64-bit counts and offsets
    start, counter, entry, step = (8, "Q", "HHQ", 20) if large else (4, "H", "HHI", 12)
    try:
        (at,) = struct.unpack_from(f"{order}{'Q' if large else 'I'}", data, start)
        (entries,) = struct.unpack_from(f"{order}{counter}", data, at)
        at += struct.calcsize(counter)
        for i in range(min(entries, 65_536)):
            tag, kind, count = struct.unpack_from(f"{order}{entry}", data, at + i * step)
            if kind in _VALUE_SIZES and count > _MAX_VALUES:
                raise ImageRejectedError(
                    "too_many_parts", f"tag {tag} of a TIFF has {count} values, at most {_MAX_VALUES} are accepted"
                )
    except (struct.error, OverflowError) as error:
        raise ImageRejectedError("broken", f"the image's header is broken: {error}") from error


def check_pixel_count(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageRejectedError(
            "too_many_pixels",
            f"{width}×{height} pixels are {width * height}, at most {max_pixels} are accepted",
        )


_CHECKS: Final[dict[bytes, Callable[[bytes, int], None]]] = {
    b"\xff\xd8": _check_jpeg,
    b"RIFF": _check_webp,
    b"GIF8": _check_gif,
    b"II*\0": _check_tiff,
    b"II+\0": _check_tiff,
    b"MM\0*": _check_tiff,
    b"MM\0+": _check_tiff,
}
_IMAGE_MAGICS: Final = (*_CHECKS, b"\x89PNG", b"BM", b"\0\0\0")
