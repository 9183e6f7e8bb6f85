"""Some of the common corruptions of Hendrycks and Dietterich (ICLR 2019), at their middle severity, in numpy.

Each maps ``uint8[N, H, W, C]`` to the same shape; the same seed gives the same images.
"""

import io
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from ml.imaging.images import Pixels


def noise(images: Pixels, seed: int) -> Pixels:
    """Gaussian noise with a standard deviation of 0.08 of the range: severity 3 of their small-image set."""
    gaussian = np.random.default_rng(seed).normal(0, 0.08 * 255, images.shape)
    return _clipped(images + gaussian)


def blur(images: Pixels) -> Pixels:
    """Gaussian blur with a standard deviation of side / 32, at least half a pixel: less has no effect."""
    sigma = max(0.5, images.shape[1] / 32)
    return _clipped(gaussian_filter(images.astype(np.float32), (0, sigma, sigma, 0)))


def dim(images: Pixels) -> Pixels:
    """Half the brightness and half the contrast."""
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    return _clipped(((images - mean) * 0.5 + mean) * 0.5)


def jpeg(images: Pixels) -> Pixels:
    """JPEG compression with quality 15."""
    return np.stack([_recoded(image) for image in images]).reshape(images.shape)


def corrupted(images: Pixels, seed: int) -> Iterator[tuple[str, Pixels]]:
    """Yield the name of each corruption and the corrupted images."""
    yield "noise", noise(images, seed)
    yield "blur", blur(images)
    yield "dim", dim(images)
    yield "jpeg", jpeg(images)


def _recoded(image: Pixels) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(buffer, "JPEG", quality=15)
    return np.asarray(Image.open(buffer), np.uint8)


def _clipped(values: NDArray[np.floating]) -> Pixels:
    result: Pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return result
