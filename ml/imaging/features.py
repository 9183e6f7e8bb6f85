"""Measures images: size, brightness, sharpness, hashes. Images of one size are measured together, five times as fast.

The features of an image depend on that image alone, not on the batch it is measured in.
"""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ml.imaging import copy_signature, perceptual_hash

_STRIP: Final = 1_000_000  # pixels measured at once, so that intermediate arrays stay small
_LEVELS: Final = np.arange(256) / 255
_DIGITS: Final = 6  # results are rounded, so that they do not depend on the order of summation

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Features:
    """Measurements of a decoded image, used by drift checks and expectation suites.

    Brightness and contrast are mean and deviation of the grey image in 0..1, sharpness the variance
    of its Laplacian, entropy that of its histogram in bits (0..8); `grey` is true if all colour
    channels are equal; `fingerprint` is the SHA-256 of the decoded pixels, the same for
    every lossless encoding of the same image; `phash_high` and `phash_low` are the halves of its
    perceptual hash; `thumbnail` is Base64 of its 16 x 16 grey levels, from which `ml.imaging.copy_signature` is made.
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
    thumbnail: str


@dataclass(frozen=True)
class DecodedImage:
    """What `measure` needs of a decoded image: its grey levels, and a thumbnail for the perceptual hash."""

    format: str
    mode: str
    grey: bool
    fingerprint: str
    levels: Pixels
    thumbnail: Pixels


def prepare(image: Image.Image, file_format: str, file_mode: str) -> DecodedImage:
    """Prepare an image in mode ``RGB`` for `measure`; `file_format` and `file_mode` are those of the file."""
    array = np.asarray(image)
    grey = image.convert("L")
    levels = np.asarray(grey)
    digest = hashlib.sha256(f"{image.width}x{image.height}".encode())
    digest.update(array.data)
    is_thumbnail = grey.size == (perceptual_hash.SIDE, perceptual_hash.SIDE)
    thumbnail = levels if is_thumbnail else np.asarray(perceptual_hash.downscale(grey))
    return DecodedImage(file_format, file_mode, _is_grey(array), digest.hexdigest(), levels, thumbnail)


def measure(images: Sequence[DecodedImage]) -> list[Features]:
    """Measure each image; the result is in order."""
    features: dict[int, Features] = {}
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for i, image in enumerate(images):
        by_shape.setdefault(image.levels.shape, []).append(i)
    for indices in by_shape.values():
        features.update(zip(indices, _measure_same_size([images[i] for i in indices]), strict=True))
    return [features[i] for i in range(len(images))]


def _measure_same_size(images: Sequence[DecodedImage]) -> Iterator[Features]:
    stack = np.stack([image.levels for image in images]) if len(images) > 1 else images[0].levels[None]
    thumbnails = np.stack([image.thumbnail for image in images])
    hashes, small = perceptual_hash.phashes(thumbnails), copy_signature.shrink(thumbnails)
    values = [v.round(_DIGITS).tolist() for v in (*_histogram_features(stack), _sharpness(stack))]
    height, width = images[0].levels.shape
    rows = zip(images, hashes.tolist(), small, *values, strict=True)
    for image, (high, low), thumbnail, mean, deviation, entropy, sharpness in rows:
        yield Features(
            width=width,
            height=height,
            format=image.format,
            mode=image.mode,
            grey=image.grey,
            brightness=mean,
            contrast=deviation,
            sharpness=sharpness,
            entropy=entropy,
            fingerprint=image.fingerprint,
            phash_high=high,
            phash_low=low,
            thumbnail=base64.b64encode(thumbnail).decode(),
        )


def _is_grey(array: Pixels) -> bool:
    red, green, blue = array[..., 0], array[..., 1], array[..., 2]
    if not red[0, 0] == green[0, 0] == blue[0, 0]:
        return False  # decides most colour images without reading all pixels
    return bool((red == green).all() and (green == blue).all())


def _histogram_features(stack: Pixels) -> tuple[Floats, Floats, Floats]:
    """Mean and deviation in 0..1, and entropy in bits, of ``uint8[n, height, width]``."""
    n = len(stack)
    flat, counts = stack.reshape(n, -1), np.zeros(n * 256, np.int64)
    shift, step = 256 * np.arange(n, dtype=np.int32)[:, None], max(1, _STRIP // n)
    for start in range(0, flat.shape[1], step):
        counts += np.bincount((flat[:, start : start + step] + shift).ravel(), minlength=n * 256)
    share = counts.reshape(n, 256) / flat.shape[1]
    mean = share @ _LEVELS
    deviation = np.sqrt((share @ _LEVELS**2 - mean**2).clip(0))
    entropy = -(share * np.log2(share, out=np.zeros_like(share), where=share > 0)).sum(1) + 0.0
    return mean, deviation, entropy


def _sharpness(stack: Pixels) -> Floats:
    """Variance of the Laplacian of ``uint8[n, height, width]``, with replicated edges and levels scaled to 0..1."""
    n, height, width = stack.shape
    step = max(1, _STRIP // (n * width))
    total, squares = np.zeros(n), np.zeros(n)
    for start in range(0, height, step):
        above = min(start, 1)
        strip = stack[:, start - above : start + step + 1].astype(np.int16)
        laplacian = np.zeros_like(strip)
        down, right = strip[:, 1:] - strip[:, :-1], strip[:, :, 1:] - strip[:, :, :-1]
        laplacian[:, :-1] += down
        laplacian[:, 1:] -= down
        laplacian[:, :, :-1] += right
        laplacian[:, :, 1:] -= right
        values = laplacian[:, above : above + step].reshape(n, -1).astype(np.float64)
        total += values.sum(1)
        squares += np.einsum("ij,ij->i", values, values)
    pixels = height * width
    variance: Floats = (squares / pixels - (total / pixels) ** 2) / 255**2
    return variance.clip(0)
