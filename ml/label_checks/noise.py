"""How many labels are wrong, and which: estimated from held-out probabilities.

The images that bear a label are a mixture of images of the true classes; how well each class explains an image is the
classifier's probability of it over the class's share in training (so the shares of the drop do not matter). The weights
of the mixtures are what is looked for: this is confident learning's joint of given and true label (Northcutt, Jiang,
Chuang 2021) by maximum likelihood, as in label-shift estimation (Saerens, Latinne, Decaestecker 2002).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

_GRID: Final = np.linspace(0.0, 1.0, 201)
_FLOOR: Final = 1e-3
_ROUNDS: Final = 60
_SPREAD: Final = 0.5  # of wrong labels over all classes; the rest over those of the drop


@dataclass(frozen=True)
class Share:
    """An estimated share and its standard error."""

    value: float
    error: float

    def minus(self, other: "Share") -> "Share":
        return Share(max(0.0, self.value - other.value), float(np.hypot(self.error, other.error)))


def likelihoods(probabilities: Floats, shares: Floats) -> Floats:
    """How well each class explains each image, ``float32[N, K]``, up to a factor for each image."""
    ratios = probabilities / np.maximum(shares, _FLOOR)
    result: Floats = ratios / ratios.sum(1, keepdims=True)
    return result


def wrong_share(explained: Floats, given: Ids, weights: Floats | None = None) -> Share:
    """The share of wrong labels, by maximum likelihood where wrong ones are of any other class.

    Args:
        explained: ``float32[N, K]``, of `likelihoods`.
        given: ``int64[N]``.
        weights: ``float32[N]``, how often each image counts.
    """
    count, classes = explained.shape
    counts = np.ones(count, np.float32) if weights is None else weights
    shares = np.bincount(given, counts, classes) / max(counts.sum(), 1e-9)
    pattern = (_SPREAD * shares + (1 - _SPREAD) / classes).astype(np.float32)
    right = explained[np.arange(count), given]
    wrong = (explained @ pattern - right * pattern[given]) / (1 - pattern[given])
    mixed = np.maximum(right[:, None] * (1 - _GRID) + wrong[:, None] * _GRID, _FLOOR / 10)
    curve = counts @ np.log(mixed)
    best = int(np.argmax(curve))
    position = min(max(best, 1), len(_GRID) - 2)
    slopes = (wrong - right) / mixed[:, position]
    information = float(counts**2 @ slopes**2) / max(float((counts**2).sum() / counts.sum()), 1e-9)
    return Share(float(_GRID[best]), float(1 / np.sqrt(max(information, 1e-9))))


def true_given(explained: Floats, given: Ids, label: int, prior: float = 1.0) -> Floats:
    """Shares ``float32[K]`` of the true classes among the images that bear a label; `prior` images favour the label."""
    rows = explained[given == label]
    mixture = np.full(explained.shape[1], 1 / explained.shape[1], np.float32)
    for _ in range(_ROUNDS):
        parts = rows * mixture
        parts /= parts.sum(1, keepdims=True) + 1e-12
        totals = parts.sum(0)
        totals[label] += prior
        mixture = totals / totals.sum()
    return mixture


def suspicion(explained: Floats, given: Ids, share: float) -> Floats:
    """The probability ``float32[N]`` that each label is wrong, where `share` of them are."""
    classes = explained.shape[1]
    right = explained[np.arange(len(given)), given]
    wrong = (1 - right) / max(classes - 1, 1)
    share = min(max(share, 0.01), 0.99)
    result: Floats = share * wrong / (share * wrong + (1 - share) * right + 1e-12)
    return result


def mixture_error(explained: Floats, label: int, other: int, share: float) -> float:
    """Standard error of the share of class `other` among images ``float32[N, K]`` that bear `label`."""
    right, wrong = explained[:, label], explained[:, other]
    share = min(max(share, 0.02), 0.98)
    mixed = np.maximum((1 - share) * right + share * wrong, _FLOOR)
    information = float((((wrong - right) / mixed) ** 2).sum())
    return float(1 / np.sqrt(max(information, 1e-9)))
