"""Any decoded picture as upright RGB: alpha over white, deep and floating-point values to 8 bits."""

from typing import Final

import numpy as np
from PIL import ExifTags, Image

from ml.errors import ImageRejectedError

_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF block says; a block that cannot be read says nothing."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - hostile metadata raises anything, and the pixels are good without it
        return image
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def as_rgb(image: Image.Image) -> Image.Image:
    """Mode ``RGB``. 16 bits keep their upper 8; floating-point values are 0..1 or 0..255.

    Raises:
        ImageRejectedError: ``unsupported_colours``: a colour space or value range that has no meaning here.
    """
    if image.mode == "F":
        image = _from_floats(image)
    elif image.mode == "I" or image.mode.startswith("I;16"):
        image = _from_deep(image)
    elif image.mode == "LAB":
        raise ImageRejectedError("unsupported_colours", "the image is in CIELAB colours; save it as RGB")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_deep(image: Image.Image) -> Image.Image:
    """16 bits, or 32 that hold 16; the one value that stands for transparent becomes white."""
    values = np.asarray(image).astype(np.int32).clip(0, 65_535)
    bytes_ = (values >> 8).astype(np.uint8)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        bytes_[values == clear] = 255
    return Image.fromarray(bytes_)


def _from_floats(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 255):  # true for NaN, which min and max pass on
        raise ImageRejectedError(
            "unsupported_colours",
            f"floating-point pixels go from {low:g} to {high:g}; only 0 to 1 and 0 to 255 are understood",
        )
    return Image.fromarray((values * (255 if high <= 1 else 1) + 0.5).astype(np.uint8))
