"""Hostile and odd images, each with the code it is refused for: `python -m tests.hostile.make FOLDER` writes them."""

import io
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

GOOD = None  # the odd ones that are images after all


def picture(width: int = 24, height: int = 16, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, *more: bytes, depth: int = 8, colour: int = 0, data: bytes | None = None) -> bytes:
    """A PNG that claims a size; `data` are its compressed pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000) if data is None else data
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(more) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def tiff(*tags: tuple[int, int, int, int], tail: bytes = b"", entries: int | None = None) -> bytes:
    """A little-endian TIFF of one directory: (tag, type, count, value or offset) each."""
    rows = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return (
        b"II*\0" + struct.pack("<IH", 8, len(tags) if entries is None else entries) + rows + struct.pack("<I", 0) + tail
    )


_GREY = ((256, 4, 1, 9), (257, 4, 1, 9), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1))


def plain_tiff(width: int, height: int, *more: tuple[int, int, int, int], tail: bytes = b"") -> bytes:
    base = ((256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1))
    given = {tag[0] for tag in more}
    strips = ((273, 4, 1, 8), (278, 4, 1, height), (279, 4, 1, width * height))
    return tiff(*sorted((*base, *(s for s in strips if s[0] not in given), *more)), tail=tail)


def progressive_bomb(scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated: tiny, yet each scan costs a pass over all pixels."""
    data = encoded(Image.new("L", (4096, 4096)), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * scans + b"\xff\xd9"


def exif_loop() -> bytes:
    """EXIF whose directory points to itself as its EXIF, GPS and next directory."""
    tags = ((0x0112, 3, 1, 6), (0x8769, 4, 1, 8), (0x8825, 4, 1, 8))
    body = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + body + struct.pack("<I", 8)


def animation(kind: str, frames: int) -> bytes:
    pictures = [picture().point(lambda v, i=i: (v + i) % 256) for i in range(frames)]
    return encoded(pictures[0], kind, save_all=True, append_images=pictures[1:], loop=0, duration=1)


def gif_of_comments(size: int) -> bytes:
    data = encoded(picture(mode="P"), "GIF")
    at = 13 + 3 * 256
    return data[:at] + b"\x21\xfe" + (b"\xff" + b"c" * 255) * (size // 256) + b"\0" + data[at:]


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "payload")
    return buffer.getvalue()


def webp_claiming(width: int, height: int) -> bytes:
    data = bytearray(encoded(picture(mode="RGBA"), "WEBP", lossless=True, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"))
    assert data[12:16] == b"VP8X"
    data[24:27], data[27:30] = (width - 1).to_bytes(3, "little"), (height - 1).to_bytes(3, "little")
    return bytes(data)


def with_sampling(factors: int) -> bytes:
    data = bytearray(encoded(picture(), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 11] = factors
    return bytes(data)


def floats(values: list[float]) -> bytes:
    return encoded(Image.fromarray(np.asarray(values * 64, np.float32).reshape(16, -1)), "TIFF")


def _disguised() -> dict[str, tuple[bytes, str | None]]:
    jpeg, dot = encoded(picture(), "JPEG"), encoded(picture(), "PNG")
    return {
        "text.jpg": (b"I am a picture, really", "not_an_image"),
        "page.png": (b"<!DOCTYPE html><script>alert(1)</script>", "not_an_image"),
        "vector.png": (b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "not_an_image"),
        "paper.jpg": (b"%PDF-1.7\n1 0 obj << >> endobj", "not_an_image"),
        "archive.jpg": (zipped(), "not_an_image"),
        "pickle.png": (b"\x80\x04\x95cos\nsystem\n(S'true'\ntR.", "not_an_image"),
        "program.gif": (b"\x7fELF" + bytes(100), "not_an_image"),
        "phone.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50), "not_an_image"),
        "icon.png": (encoded(picture(16, 16), "ICO"), "not_an_image"),
        "mac-icon.png": (encoded(picture(16, 16), "ICNS"), "not_an_image"),
        "postscript.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image"),
        "photoshop.png": (b"8BPS\0\1" + bytes(60), "not_an_image"),
        "flic.png": (struct.pack("<IHHHH", 128, 0xAF11, 1, 9, 9) + bytes(116), "not_an_image"),
        "jpeg-2000.jpg": (encoded(picture(), "JPEG2000"), "not_an_image"),
        "empty.png": (b"", "empty"),
        "one-byte.png": (b"\x89", "not_an_image"),
        "picture-and-zip.jpg": (jpeg + zipped(), "disguised"),
        "picture-and-zip.png": (dot + zipped(), "disguised"),
        "picture-and-paper.jpg": (jpeg[:2] + b"\xff\xfe\0\x0a%PDF-1.7" + jpeg[2:], "disguised"),
        "picture-and-page.gif": (encoded(picture(mode="P"), "GIF", comment=b"<script>alert(1)</script>"), "disguised"),
    }


def _bombs() -> dict[str, tuple[bytes, str | None]]:
    large = zlib.compress(bytes(200_000_000), 9)
    black = [b"\0" * 5001] * 5000
    return {
        "claims-60000.png": (png(60_000, 60_000), "too_many_pixels"),
        "claims-2-billion.png": (png(2**31 - 1, 2**31 - 1), "too_many_pixels"),
        "claims-65000.gif": (_gif(65_000, 65_000), "too_many_pixels"),
        "claims-65000.bmp": (_bmp(65_000, 65_000), "too_many_pixels"),
        "claims-65000.tif": (plain_tiff(65_000, 65_000), "too_many_pixels"),
        "claims-16-million.webp": (webp_claiming(2**24, 200), "too_many_pixels"),
        "lies.webp": (webp_claiming(40, 40), "broken"),
        "large-text.png": (png(9, 9, chunk(b"zTXt", b"k\0\0" + large)), "broken"),
        "large-profile.png": (png(9, 9, chunk(b"iCCP", b"p\0\0" + large)), "broken"),
        "more-pixels-than-told.png": (png(9, 9, data=large), GOOD),
        "25-megapixels-in-a-few-bytes.png": (png(5000, 5000, data=zlib.compress(b"".join(black))), GOOD),
        "scans.jpg": (progressive_bomb(5000), "too_many_parts"),
        "comments.gif": (gif_of_comments(12_000_000), "too_many_parts"),
        "strips.tif": (plain_tiff(1, 4_000_000, (273, 4, 4_000_000, 200)), "too_many_parts"),
        "values.tif": (plain_tiff(9, 9, (258, 3, 2**31, 8)), "too_many_parts"),
        "entries.tif": (tiff((256, 4, 1, 9), entries=65_535), "broken"),
        "tile-of-2-billion.tif": (
            tiff(*_GREY, (322, 4, 1, 2**31), (323, 4, 1, 2**31), (324, 4, 1, 8), (325, 4, 1, 81)),
            "broken",
        ),
        "directory-behind-the-end.tif": (b"II*\0" + struct.pack("<I", 2**31), "broken"),
    }


def _broken() -> dict[str, tuple[bytes, str | None]]:
    found: dict[str, tuple[bytes, str | None]] = {}
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"):
        mode = "P" if kind == "GIF" else "RGB"
        data = encoded(picture(200, 200, mode), kind)
        found[f"half.{kind.lower()}"] = (data[: len(data) // 2], "broken")
    found["half.avif"] = (found["half.avif"][0], "not_an_image")  # its plug-in does not tell the two apart
    return found | {
        "no-width.png": (png(0, 10), "not_an_image"),
        "sampling.jpg": (with_sampling(0xFF), "broken"),
        "sampling-zero.jpg": (with_sampling(0x00), "broken"),
        "no-numbers.tif": (floats([float("nan"), 0.5]), "unsupported_colours"),
        "infinite.tif": (floats([float("inf"), 0.5]), "unsupported_colours"),
        "beyond-white.tif": (floats([0.0, 70_000.0]), "unsupported_colours"),
        "lab.tif": (encoded(picture(mode="LAB"), "TIFF"), "unsupported_colours"),
    }


def _odd() -> dict[str, tuple[bytes, str | None]]:
    return {
        "exif-loop.jpg": (encoded(picture(), "JPEG", exif=exif_loop()), GOOD),
        "exif-nonsense.jpg": (encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"), GOOD),
        "one-pixel.png": (encoded(picture(1, 1), "PNG"), GOOD),
        "one-column.png": (encoded(picture(1, 3000), "PNG"), GOOD),
        "one-row.tif": (encoded(picture(3000, 1), "TIFF"), GOOD),
        "animation.gif": (animation("GIF", 300), GOOD),
        "animation.png": (animation("PNG", 300), GOOD),
        "animation.webp": (animation("WEBP", 30), GOOD),
        "frames-without-end.png": (png_of_frames(), GOOD),
        "two-pages.tif": (encoded(picture(), "TIFF", save_all=True, append_images=[picture()]), GOOD),
        "one-bit.tif": (encoded(picture(mode="1"), "TIFF", compression="group4"), GOOD),
        "photo.avif": (encoded(picture(), "AVIF"), GOOD),
    }


def png_of_frames() -> bytes:
    """An animated PNG that says it has four billion frames."""
    return png(9, 9, chunk(b"acTL", struct.pack(">II", 2**32 - 1, 0)), data=zlib.compress(bytes(90)))


def _gif(width: int, height: int) -> bytes:
    screen = struct.pack("<HHBBB", width, height, 0, 0, 0)
    return b"GIF89a" + screen + b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\2\2\x4c\1\0;"


def _bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(header), 0, 0, 54) + header


PARTS: tuple[Callable[[], dict[str, tuple[bytes, str | None]]], ...] = (_disguised, _bombs, _broken, _odd)


def hostile() -> dict[str, tuple[bytes, str | None]]:
    """File name → (bytes, the code it is refused for, or `GOOD`)."""
    return {name: made for part in PARTS for name, made in part().items()}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, (data, _) in hostile().items():
        (folder / name).write_bytes(data)
