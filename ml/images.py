"""Decode, resize, fingerprint: the one way in training and in serving. No torch.

Bytes are hostile until proven otherwise: size is checked before decoding, pixel count after the
header and before the pixels, and only the formats listed here are ever tried.
"""

import hashlib
import io
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ml import colours, headers, perceptual
from ml.errors import ImageRejectedError

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")
"""What may be decoded; Pillow tries no other plug-in."""

_STRIP: Final = 1_000_000  # pixels measured at once, so that memory follows the image and not a multiple of it
_LEVELS: Final = np.arange(256) / 255

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Limits:
    """The largest image accepted, in bytes as sent and in pixels as decoded."""

    max_bytes: int
    max_pixels: int


@dataclass(frozen=True)
class Features:
    """Measurements of a decoded image, of the kind drift is looked for in.

    Brightness and contrast are mean and deviation of the grey image in 0..1, sharpness the variance
    of its Laplacian, entropy that of its histogram in bits (0..8); `grey` says that all colour
    channels are equal; `fingerprint` is the SHA-256 of the decoded pixels, the same for
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
    sharpness: float
    entropy: float
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
    return _decoded(_identify(data, limits), draft_side)


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
    kind, mode = header.format or "", header.mode
    image = _decoded(header)
    array = np.asarray(image)
    grey = image.convert("L")
    levels = np.asarray(grey)
    brightness, contrast, entropy = _of_levels(levels)
    high, low = perceptual.halves(perceptual.phash(grey))
    digest = hashlib.sha256(f"{image.width}x{image.height}".encode())
    digest.update(array.data)
    return Features(
        width=image.width,
        height=image.height,
        format=kind,
        mode=mode,
        grey=_is_grey(array),
        brightness=brightness,
        contrast=contrast,
        sharpness=_sharpness(levels),
        entropy=entropy,
        fingerprint=digest.hexdigest(),
        phash_high=high,
        phash_low=low,
    )


def _is_grey(array: Pixels) -> bool:
    red, green, blue = array[..., 0], array[..., 1], array[..., 2]
    if not red[0, 0] == green[0, 0] == blue[0, 0]:
        return False  # most colour pictures need no further look
    return bool((red == green).all() and (green == blue).all())


def _of_levels(grey: Pixels) -> tuple[float, float, float]:
    """Mean and deviation in 0..1, entropy in bits."""
    flat, counts = grey.ravel(), np.zeros(256, np.int64)
    for start in range(0, len(flat), _STRIP):
        counts += np.bincount(flat[start : start + _STRIP], minlength=256)
    share = counts / len(flat)
    mean = float(share @ _LEVELS)
    deviation = math.sqrt(float(share @ (_LEVELS - mean) ** 2))
    present = share[share > 0]
    return mean, deviation, float(-(present @ np.log2(present))) + 0.0


def _sharpness(grey: Pixels) -> float:
    """Variance of the Laplacian of a ``uint8[height, width]`` whose edge is continued, levels as 0..1."""
    step = max(1, _STRIP // grey.shape[1])
    total = squares = 0.0
    for start in range(0, len(grey), step):
        above = min(start, 1)
        strip = grey[start - above : start + step + 1].astype(np.int16)
        laplacian = np.zeros_like(strip)
        down, right = strip[1:] - strip[:-1], strip[:, 1:] - strip[:, :-1]
        laplacian[:-1] += down
        laplacian[1:] -= down
        laplacian[:, :-1] += right
        laplacian[:, 1:] -= right
        values = laplacian[above : above + step].ravel().astype(np.float64)
        total += float(values.sum())
        squares += float(values @ values)
    return max(0.0, squares / grey.size - (total / grey.size) ** 2) / 255**2


def _identify(data: bytes, limits: Limits) -> Image.Image:
    if not data:
        raise ImageRejectedError("empty", "the file is empty (0 bytes)")
    if len(data) > limits.max_bytes:
        raise ImageRejectedError("too_many_bytes", f"{len(data)} bytes, at most {limits.max_bytes} are accepted")
    headers.check(data, limits.max_pixels)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        words = f"not an image of a known format ({', '.join(FORMATS)}){headers.advice(data)}"
        raise ImageRejectedError("not_an_image", words) from error
    except Image.DecompressionBombError as error:
        raise ImageRejectedError("too_many_pixels", f"at most {limits.max_pixels} pixels are accepted") from error
    except Exception as error:
        raise ImageRejectedError("broken", f"the image's header is broken: {error}") from error
    headers.refuse_large(image.width, image.height, limits.max_pixels)
    return image


def _decoded(image: Image.Image, draft_side: int | None = None) -> Image.Image:
    try:
        if draft_side is not None:
            image.draft(None, (draft_side, draft_side))
        image.load()
        return colours.as_rgb(colours.upright(image))
    except ImageRejectedError:
        raise
    except MemoryError as error:
        raise ImageRejectedError("too_much_memory", "decoding the image takes more memory than it may") from error
    except Exception as error:  # decoders fed hostile bytes raise anything: TypeError, struct.error, …
        raise ImageRejectedError("broken", f"the image's data is broken or cut off: {error}") from error
