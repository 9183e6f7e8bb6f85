"""Encoded images as the small pictures that features are made of."""

from collections.abc import Iterable

import numpy as np

from ml.context import Context
from ml.errors import ImageRejectedError
from ml.imaging import images
from ml.imaging.images import Limits, Pixels
from ml.label_checks.features import SIDE, Floats
from ml.label_checks.features import describe as describe_pixels


def decode(ctx: Context, encoded: Iterable[bytes]) -> Pixels:
    """``uint8[N, 32, 32, 3]``, black where an image cannot be decoded any more: its place must stay."""
    limits = Limits(ctx.settings.max_image_bytes, ctx.settings.max_image_pixels)
    pictures = [_decode(data, limits) for data in encoded]
    return np.stack(pictures) if pictures else np.zeros((0, SIDE, SIDE, 3), np.uint8)


def describe(ctx: Context, encoded: Iterable[bytes]) -> Floats:
    """Features ``float32[N, D]``."""
    return describe_pixels(decode(ctx, encoded))


def _decode(data: bytes, limits: Limits) -> Pixels:
    try:
        return images.decode(data, SIDE, 3, limits)
    except ImageRejectedError:
        return np.zeros((SIDE, SIDE, 3), np.uint8)
