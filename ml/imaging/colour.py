"""Converts decoded images to upright 8-bit RGB: alpha over white, 16-bit and floating-point values to 8 bits."""

from typing import Final

import numpy as np
from PIL import ExifTags, Image

from ml.errors import ImageRejectedError

_TRANSPOSITIONS: Final = {  # EXIF orientation → operation that undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def apply_orientation(image: Image.Image) -> Image.Image:
    """Transpose the image as its EXIF orientation requires; an unreadable EXIF block is ignored."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - hostile metadata can raise anything, and the pixels are usable without it
        return image
    operation = _TRANSPOSITIONS.get(orientation) if isinstance(orientation, int) else None
    return image if operation is None else image.transpose(operation)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to mode ``RGB``. 16-bit values keep their upper 8 bits; floating-point values must be 0..1 or 0..255.

    Raises:
        ImageRejectedError: ``unsupported_colours``: a colour space or value range that is not supported.
    """
    if image.mode == "F":
        image = _from_floats(image)
    elif image.mode == "I" or image.mode.startswith("I;16"):
        image = _from_16_bit(image)
    elif image.mode == "LAB":
        raise ImageRejectedError("unsupported_colours", "the image is in CIELAB colours; save it as RGB")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """From 16-bit values, or 32-bit ones that hold 16; the value that marks transparency becomes white."""
    values = np.asarray(image).astype(np.int32).clip(0, 65_535)
    levels = (values >> 8).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        levels[values == transparent] = 255
    return Image.fromarray(levels)


def _from_floats(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 255):  # also true for NaN, which min and max propagate
        raise ImageRejectedError(
            "unsupported_colours",
            f"floating-point pixels go from {low:g} to {high:g}; only 0 to 1 and 0 to 255 are understood",
        )
    return Image.fromarray((values * (255 if high <= 1 else 1) + 0.5).astype(np.uint8))
