"""Which class the images of another one bear: the large cells of the table of given and likely labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ml.label_checks import noise

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

_LEAST_IMAGES: Final = 8
_SURE: Final = 3.1  # standard errors: one-sided 99.9 %, since every class is looked at
_NAMED: Final = 0.05
_HELD_SHARE: Final = 0.5  # of the images of a class
_HELD_IMAGES: Final = 0.05  # of the drop
_MOST: Final = 50


@dataclass(frozen=True)
class Moved:
    """Images that bear one class and look like another.

    Attributes:
        of: images that bear `given`.
        share: of these that look like `likely`, beyond what is so among stored ones; at least `low`.
    """

    given: str
    likely: str
    of: int
    share: float
    low: float

    @property
    def images(self) -> float:
        return self.share * self.of

    def named(self, images: int) -> bool:
        """Whether it is worth a warning in a drop of so many images."""
        return self.low > _NAMED and self.images >= max(3.0, _NAMED * images / 2)

    def holds(self, images: int) -> bool:
        """Whether it is enough to hold the drop."""
        return self.named(images) and (self.share >= _HELD_SHARE or self.images >= _HELD_IMAGES * images)


def moved(drop: Floats, given: Ids, stored: Floats, stored_given: Ids, names: Sequence[str]) -> tuple[Moved, ...]:
    """The pairs with more images than among stored samples, the largest first.

    Args:
        drop, stored: of `noise.likelihoods`.
    """
    pairs = []
    for label in map(int, np.flatnonzero(np.bincount(given, minlength=len(names)) >= _LEAST_IMAGES)):
        ours = noise.true_given(drop, given, label)
        theirs = noise.true_given(stored, stored_given, label)
        count = int((given == label).sum())
        excess = ours - theirs
        excess[label] = 0
        likely = int(excess.argmax())
        if (share := float(excess[likely])) <= _NAMED:
            continue
        error = np.hypot(
            noise.mixture_error(drop[given == label], label, likely, float(ours[likely])),
            _binomial_error(float(theirs[likely]), int((stored_given == label).sum())),
        )
        low = max(0.0, share - _SURE * float(error))
        pairs.append(Moved(names[label], names[likely], count, round(share, 4), round(low, 4)))
    return tuple(sorted(pairs, key=lambda m: -m.images)[:_MOST])


def _binomial_error(share: float, count: int) -> float:
    """Standard error of a share that may be nothing, where the curvature of the likelihood says too much."""
    count = max(count, 1)
    return float(np.sqrt(max(share * (1 - share), 1 / count) / count))
