"""Decodes and resizes images, identically in training and in serving. Does not need torch.

Input is untrusted: its size is checked before decoding, the pixel count after the header and before
the pixels, and only the formats in `FORMATS` are tried.
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
"""The formats that are decoded; Pillow tries no other plug-in."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Limits:
    """The largest image accepted, in bytes as sent and in pixels as decoded."""

    max_bytes: int
    max_pixels: int


@dataclass(frozen=True)
class ModelInput:
    """A model's input ``uint8[size, size, channels]``, with the width and height of the original image in pixels."""

    pixels: Pixels
    width: int
    height: int


def open_image(data: bytes, limits: Limits, draft_side: int | None = None) -> Image.Image:
    """Decode to upright pixels in mode ``RGB``; of an animation, the first frame.

    Args:
        data: the encoded image.
        limits: checked before any pixel is decoded.
        draft_side: lets the JPEG decoder scale down by 2, 4 or 8 while no side falls below this.

    Raises:
        ImageRejectedError: empty, too large, not an image of a known format, or broken.
    """
    return _load(_open_header(data, limits), draft_side)


def to_array(image: Image.Image, size: int, channels: int) -> Pixels:
    """Resize to a model's input ``uint8[size, size, channels]``: aspect ratio preserved, centre cropped.

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
    """Decode encoded bytes to a model's input; see `open_image` and `to_array`."""
    return decode_input(data, size, channels, limits).pixels


def decode_input(data: bytes, size: int, channels: int, limits: Limits) -> ModelInput:
    """As `decode`, with the original width and height."""
    header = _open_header(data, limits)
    original_size = header.size  # before the decoder scales it down
    return ModelInput(to_array(_load(header, draft_side=size), size, channels), *original_size)


def decode_for_features(data: bytes, limits: Limits) -> DecodedImage:
    """Decode at full size, for `ml.imaging.features.measure`.

    Raises:
        ImageRejectedError: as `open_image`.
    """
    header = _open_header(data, limits)
    file_format, file_mode = header.format or "", header.mode
    return features.prepare(_load(header), file_format, file_mode)


def inspect(data: bytes, limits: Limits) -> Features:
    """Decode at full size and measure; raises as `open_image`."""
    return features.measure([decode_for_features(data, limits)])[0]


def _open_header(data: bytes, limits: Limits) -> Image.Image:
    if not data:
        raise ImageRejectedError("empty", "the file is empty (0 bytes)")
    if len(data) > limits.max_bytes:
        raise ImageRejectedError("too_many_bytes", f"{len(data)} bytes, at most {limits.max_bytes} are accepted")
    headers.check(data, limits.max_pixels)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        message = f"not an image of a known format ({', '.join(FORMATS)}){headers.conversion_hint(data)}"
        raise ImageRejectedError("not_an_image", message) from error
    except Image.DecompressionBombError as error:
        raise ImageRejectedError("too_many_pixels", f"at most {limits.max_pixels} pixels are accepted") from error
    except Exception as error:
        raise ImageRejectedError("broken", f"the image's header is broken: {error}") from error
    headers.check_pixel_count(image.width, image.height, limits.max_pixels)
    return image


def _load(image: Image.Image, draft_side: int | None = None) -> Image.Image:
    try:
        if draft_side is not None:
            image.draft(None, (draft_side, draft_side))
        image.load()
        return colour.to_rgb(colour.apply_orientation(image))
    except ImageRejectedError:
        raise
    except MemoryError as error:
        raise ImageRejectedError("too_much_memory", "decoding the image takes more memory than it may") from error
    except Exception as error:  # decoders can raise anything on hostile bytes: TypeError, struct.error, …
        raise ImageRejectedError("broken", f"the image's data is broken or cut off: {error}") from error
