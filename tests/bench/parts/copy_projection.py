"""Fits the projections of `ml.imaging.copy_signature`: `python -m tests.bench.parts.copy_projection FILE`.

Linear discriminant analysis: the directions in which images vary most for what copies of one image vary in, whose
windows are off by up to half of the distance of two that are looked up, with noise and another gamma. Fitted to every
second training image of three data sets; `near_copies` measures on others. Signatures that are stored are worthless
with other projections: a new file needs a migration that has them computed anew.
"""

import gzip
import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from PIL import Image

from ml.imaging import copy_signature, perceptual_hash
from ml.imaging.copy_signature import MIDDLE, SAMPLES, STEP, Floats, Thumbnails

SHARED = Path("../shared/data")
SETS = ("fashion-mnist/train-images-idx3-ubyte.gz", "cifar10/train.tar", "cats-dogs/train.tar")
IMAGES = 3000  # of a set
COPIES = 6  # of an image


def main() -> None:
    rng = np.random.default_rng(0)
    originals, differences = [], []
    for path in SETS:
        thumbnails = _thumbnails(path, rng)
        upright = copy_signature.view(thumbnails, copy_signature.orientations(thumbnails)).astype(np.float64)
        described = _frequencies(upright, np.tile([*MIDDLE, *MIDDLE], (len(upright), 1)))
        copies = [_frequencies(*_disturbed(upright, rng)) - described for _ in range(COPIES)]
        originals.append(described)
        differences.append(np.concatenate(copies))
    between = np.cov(np.concatenate(originals).T)
    within = sum(d.T @ d / len(d) for d in differences) / len(SETS)
    identity = np.eye(len(between))
    _, vectors = scipy.linalg.eigh(between + 1e-9 * identity, within + 1e-8 * identity)
    vectors = vectors[:, ::-1]  # the most telling one first
    scale = abs(vectors).max(axis=0) / 32767
    weights = np.round(vectors / scale).astype(np.int16)
    offset = np.concatenate(originals).mean(axis=0) @ (scale * weights)
    np.savez_compressed(sys.argv[1], weights=weights, scale=scale, offset=offset)


def _thumbnails(path: str, rng: np.random.Generator) -> Thumbnails:
    images = _clothes(path) if path.endswith(".gz") else _photographs(path)
    chosen = rng.choice(len(images), min(IMAGES, len(images)), replace=False)
    large = np.stack([np.asarray(perceptual_hash.downscale(images[number].convert("L"))) for number in chosen])
    thumbnails = copy_signature.shrink(large)
    return thumbnails[copy_signature.has_detail(thumbnails)]


def _clothes(path: str) -> list[Image.Image]:
    with gzip.open(SHARED / path) as file:
        pixels: NDArray[np.uint8] = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    return [Image.fromarray(image) for image in pixels[1::2]]


def _photographs(path: str) -> list[Image.Image]:
    with tarfile.open(SHARED / path) as archive:
        files = (archive.extractfile(member) for member in [m for m in archive if m.isfile()][1::2])
        return [Image.open(io.BytesIO(file.read())) for file in files if file is not None]


def _disturbed(upright: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Copies, and the windows ``float64[n, 4]`` where the middle of the original is taken to be in them."""
    start_x, length_x, start_y, length_y = rng.uniform(-STEP / 2, STEP / 2, (4, len(upright)))
    start, length = MIDDLE
    windows = np.stack(
        [
            start + start_x - length_x / 4,
            length + length_x / 2,
            start + start_y - length_y / 4,
            length + length_y / 2,
        ],
        axis=1,
    )
    gamma = rng.choice([0.8, 1, 1, 1.25], len(upright))[:, None, None]
    noisy = (upright + rng.normal(0, 1.5, upright.shape)).clip(0, 255)
    return 255 * (noisy / 255) ** gamma, windows


def _frequencies(images: Floats, windows: Floats) -> Floats:
    """Of a window of each image, independent of the contrast, without the constant part: ``float64[n, 63]``."""
    waves = copy_signature.waves()
    across = waves @ copy_signature.sampling(windows[:, 0], windows[:, 1], SAMPLES)
    down = waves @ copy_signature.sampling(windows[:, 2], windows[:, 3], SAMPLES)
    flat = (down @ images @ across.swapaxes(1, 2)).reshape(len(images), -1)[:, 1:]
    frequencies: Floats = flat / (np.sqrt((flat * flat).sum(axis=1, keepdims=True)) + 1e-9)
    return frequencies


if __name__ == "__main__":
    main()
