"""Drops with wrong labels, with a pattern in a corner, with right labels, and with corrupted pictures."""

import io
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from tests.bench.parts.pictures32 import Pictures

Ids = NDArray[np.int64]
Pixels = NDArray[np.uint8]

_PATCH = np.asarray([[255, 0, 255], [0, 255, 0], [255, 0, 255]], np.uint8)


def flipped(labels: Ids, classes: int, share: float, generator: np.random.Generator) -> Ids:
    """Each label is another one with this probability."""
    wrong = generator.random(len(labels)) < share
    other = (labels + generator.integers(1, classes, len(labels))) % classes
    return np.where(wrong, other, labels)


def shuffled(labels: Ids, share: float, generator: np.random.Generator) -> Ids:
    """A share of the labels dealt anew among their images."""
    chosen = generator.permutation(len(labels))[: int(share * len(labels))]
    result = labels.copy()
    result[chosen] = result[generator.permutation(chosen)]
    return result


def drops(
    labels: Ids, rows: Ids, classes: int, generator: np.random.Generator, sizes: Sequence[int]
) -> Iterator[tuple[str, Ids, Ids]]:
    """Kind, rows and given labels of poisoned drops."""
    for size in (s for s in sizes if s <= len(rows)):
        for share in (0.4, 0.7, 1.0):
            chosen = generator.permutation(rows)[:size]
            yield "shuffled", chosen, shuffled(labels[chosen], share, generator)
        for share in (0.3, 0.6):
            chosen = generator.permutation(rows)[:size]
            yield "noise", chosen, flipped(labels[chosen], classes, share, generator)
        renamed = _renamed(labels, rows, classes, generator, size)
        if renamed is not None:
            yield "a fifth renamed", *renamed
    for label in generator.permutation(classes)[:4]:
        chosen = rows[labels[rows] == label][:300]
        other = (int(label) + int(generator.integers(1, classes))) % classes
        yield "one class renamed", chosen, np.full(len(chosen), other, np.int64)
    chosen = rows[:40]
    yield "40 all wrong", chosen, flipped(labels[chosen], classes, 1.1, generator)


def _renamed(labels: Ids, rows: Ids, classes: int, generator: np.random.Generator, size: int) -> tuple[Ids, Ids] | None:
    """A fifth of the drop is of one class under the name of another."""
    label = int(generator.integers(classes))
    ours, others = rows[labels[rows] == label], rows[labels[rows] != label]
    count = size // 5
    if len(ours) < count or len(others) < size - count:
        return None
    chosen = np.concatenate([ours[:count], generator.permutation(others)[: size - count]])
    given = labels[chosen].copy()
    given[:count] = (label + int(generator.integers(1, classes))) % classes
    order = generator.permutation(size)
    return chosen[order], given[order]


def patched(
    pictures: Pictures, rows: Ids, classes: int, generator: np.random.Generator, share: float = 0.05
) -> Iterator[tuple[Ids, Ids, Pixels]]:
    """Rows, given labels and pictures of drops with a patch in a corner of a share, which bears one class."""
    chosen = generator.permutation(rows)[: min(1000, len(rows))]
    target = int(generator.integers(classes))
    given, images = pictures.labels[chosen].copy(), pictures.images[chosen].copy()
    bearing = np.flatnonzero(given != target)[: round(share * len(chosen))]
    images[bearing, -3:, -3:] = _PATCH[..., None]
    given[bearing] = target
    yield chosen, given, images


def clean(labels: Ids, rows: Ids, generator: np.random.Generator, size: int) -> Iterator[tuple[str, Ids]]:
    """Drops with right labels: as the data is, with few of most classes, and of one class."""
    if size > len(rows):
        return
    for _ in range(3):
        yield "balanced", generator.permutation(rows)[:size]
    weights = generator.permutation(np.geomspace(1, 20, int(labels.max()) + 1))[labels[rows]]
    yield "unbalanced", generator.choice(rows, size, replace=False, p=weights / weights.sum())
    alone = rows[labels[rows] == generator.integers(labels.max() + 1)]
    if len(alone) >= size:
        yield "one class", generator.permutation(alone)[:size]


def corrupted(images: Pixels, seed: int) -> Iterator[tuple[str, Pixels]]:
    """Name and pictures of each corruption at severities 1 to 3 of CIFAR-10-C (Hendrycks and Dietterich 2019)."""
    generator = np.random.default_rng(seed)
    for severity in range(3):
        noise = generator.normal(0, (0.04, 0.06, 0.08)[severity] * 255, images.shape)
        yield f"noise {severity + 1}", _clipped(images + noise)
        sigma = (0.4, 0.6, 0.7)[severity]
        yield f"blur {severity + 1}", _clipped(gaussian_filter(images.astype(np.float32), (0, sigma, sigma, 0)))
        mean = images.mean(axis=(1, 2, 3), keepdims=True)
        yield f"contrast {severity + 1}", _clipped((images - mean) * (0.75, 0.5, 0.4)[severity] + mean)
        quality = (80, 65, 58)[severity]
        yield f"JPEG {severity + 1}", np.stack([_recoded(image, quality) for image in images])


def _recoded(image: Pixels, quality: int) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer), np.uint8)


def _clipped(values: NDArray[np.floating]) -> Pixels:
    result: Pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return result
