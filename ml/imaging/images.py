"""Decode and resize: the one way in training and in serving. No torch.

Bytes are hostile until proven otherwise: size is checked before decoding, pixel count after the
header and before the pixels, and only the formats listed here are ever tried.
"""

import io
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ml.errors import ImageRejectedError
from ml.imaging import colour, features, headers
from ml.imaging.features import DecodedImage, Features

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")
"""What may be decoded; Pillow tries no other plug-in."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Limits:
    """The largest image accepted, in bytes as sent and in pixels as decoded."""

    max_bytes: int
    max_pixels: int


@dataclass(frozen=True)
class ModelInput:
    """What a model sees of an image: ``uint8[size, size, channels]``, and the sides of what was sent, in pixels."""

    pixels: Pixels
    width: int
    height: int


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
    return decode_input(data, size, channels, limits).pixels


def decode_input(data: bytes, size: int, channels: int, limits: Limits) -> ModelInput:
    """As `decode`, with the sides of what was sent."""
    header = _identify(data, limits)
    sides = header.size  # before the decoder scales it down
    return ModelInput(to_array(_decoded(header, draft_side=size), size, channels), *sides)


def sight(data: bytes, limits: Limits) -> DecodedImage:
    """Decode fully and keep what is measured; see `ml.imaging.features`.

    Raises:
        ImageRejectedError: as `open_image`.
    """
    header = _identify(data, limits)
    kind, mode = header.format or "", header.mode
    return features.sight(_decoded(header), kind, mode)


def inspect(data: bytes, limits: Limits) -> Features:
    """Decode fully and measure; raises as `open_image`."""
    return features.measure([sight(data, limits)])[0]


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
        return colour.as_rgb(colour.upright(image))
    except ImageRejectedError:
        raise
    except MemoryError as error:
        raise ImageRejectedError("too_much_memory", "decoding the image takes more memory than it may") from error
    except Exception as error:  # decoders fed hostile bytes raise anything: TypeError, struct.error, …
        raise ImageRejectedError("broken", f"the image's data is broken or cut off: {error}") from error
