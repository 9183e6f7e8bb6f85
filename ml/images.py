"""Decode, resize, fingerprint: the one way in training and in serving. No torch.

Bytes are hostile until proven otherwise: size is checked before decoding, pixel count after the
header and before the pixels, and only the formats listed here are ever tried.
"""

import hashlib
import io
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageStat, UnidentifiedImageError

from ml import perceptual
from ml.errors import ImageRejectedError

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
"""What may be decoded; Pillow tries no other plug-in."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Limits:
    """The largest image accepted, in bytes as sent and in pixels as decoded."""

    max_bytes: int
    max_pixels: int


@dataclass(frozen=True)
class Features:
    """Measurements of a decoded image, of the kind drift is looked for in.

    Brightness, contrast are mean and deviation of the grey image in 0..1; `grey` says that all
    colour channels are equal; `fingerprint` is the SHA-256 of the decoded pixels, the same for
    every lossless encoding of the same picture; `phash_high` and `phash_low` are the halves of its
    perceptual hash.
    """

    width: int
    height: int
    format: str
    mode: str
    grey: bool
    brightness: float
    contrast: float
    fingerprint: str
    phash_high: int
    phash_low: int


def open_image(data: bytes, limits: Limits, draft_side: int | None = None) -> Image.Image:
    """Decoded pixels, upright, in mode ``RGB``; the first frame of an animation.

    Args:
        data: the encoded image.
        limits: checked before any pixel is decoded.
        draft_side: lets the JPEG decoder scale down by 2, 4 or 8 while no side falls below this.

    Raises:
        ImageRejectedError: empty, too large, not an image of a known format, or broken.
    """
    image = _identify(data, limits)
    try:
        if draft_side is not None:
            image.draft(None, (draft_side, draft_side))
        image.load()
        return _as_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # decoders fed hostile bytes raise anything: TypeError, struct.error, …
        raise ImageRejectedError("broken", f"the image's data is broken or cut off: {error}") from error


def to_array(image: Image.Image, size: int, channels: int) -> Pixels:
    """The model's input: ``uint8[size, size, channels]``, aspect ratio kept, centre cropped.

    Args:
        image: as `open_image` returns it.
        size: side of the square in pixels.
        channels: 1 (grey) or 3 (RGB).
    """
    if channels == 1:
        image = image.convert("L")
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(size, size, channels)


def decode(data: bytes, size: int, channels: int, limits: Limits) -> Pixels:
    """Encoded bytes to the model's input in one go; see `open_image` and `to_array`."""
    return to_array(open_image(data, limits, draft_side=size), size, channels)


def inspect(data: bytes, limits: Limits) -> Features:
    """Decode fully and measure.

    Raises:
        ImageRejectedError: as `open_image`.
    """
    header = _identify(data, limits)
    image = open_image(data, limits)
    array = np.asarray(image)
    grey = image.convert("L")
    statistics = ImageStat.Stat(grey)
    high, low = perceptual.halves(perceptual.phash(grey))
    digest = hashlib.sha256(f"{image.width}x{image.height}".encode())
    digest.update(array.tobytes())
    return Features(
        width=image.width,
        height=image.height,
        format=header.format or "",
        mode=header.mode,
        grey=bool((array[..., 0] == array[..., 1]).all() and (array[..., 1] == array[..., 2]).all()),
        brightness=statistics.mean[0] / 255,
        contrast=statistics.stddev[0] / 255,
        fingerprint=digest.hexdigest(),
        phash_high=high,
        phash_low=low,
    )


def _identify(data: bytes, limits: Limits) -> Image.Image:
    if not data:
        raise ImageRejectedError("empty", "the file is empty (0 bytes)")
    if len(data) > limits.max_bytes:
        raise ImageRejectedError("too_many_bytes", f"{len(data)} bytes, at most {limits.max_bytes} are accepted")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageRejectedError("not_an_image", f"not an image of a known format ({', '.join(FORMATS)})") from error
    except Exception as error:
        raise ImageRejectedError("broken", f"the image's header is broken: {error}") from error
    if image.width * image.height > limits.max_pixels:
        raise ImageRejectedError(
            "too_many_pixels",
            f"{image.width}×{image.height} pixels are {image.width * image.height}, "
            f"at most {limits.max_pixels} are accepted",
        )
    return image


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        image = Image.fromarray((np.asarray(image, np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
