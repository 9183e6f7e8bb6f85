"""Images with the same small pattern in the same corner that bear one label and look like other classes: a backdoor.

A model trained on them gives that label to whatever bears the pattern (Gu, Dolan-Gavitt and Garg 2017). The pattern is
local and hardly moves features of the whole image, so it is looked for where it is: pixels that many images share, a
label that these images have far more often than others, and pictures that do not look like that label.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ml.imaging.images import Pixels
from ml.intake.findings import Finding
from ml.label_checks import noise

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

_SIDES: Final = (2, 3)
_INSETS: Final = (0, 1, 2)
_STEP: Final = 48  # grey levels that count as the same
_LEAST: Final = 8
_LEAST_SHARE: Final = 0.01
_MOST_SHARE: Final = 0.5
_ENRICHED: Final = 5.0  # standard errors
_SURE: Final = 2.33
_WRONG: Final = 0.25
_MOST_IMAGES: Final = 100


@dataclass(frozen=True, eq=False)
class _Pattern:
    """Images that share a corner and a label; `wrong` of them look like other classes, at least `low`."""

    rows: Ids
    label: int
    where: str
    wrong: float
    low: float


def find(
    images: Pixels, explained: Floats, given: Ids, names: Sequence[str], keys: Sequence[str]
) -> tuple[Finding, ...]:
    """A finding that holds the drop, for the most conspicuous pattern.

    Args:
        images: ``uint8[N, side, side, channels]``.
        explained: ``float32[N, K]``, of `noise.likelihoods`, by a classifier that did not see the images' labels.
        given: ``int64[N]``.
    """
    count = len(images)
    if count < 5 * _LEAST:
        return ()
    shares = np.bincount(given, minlength=len(names)) / count
    patterns = [
        pattern
        for where, group in _groups(images)
        if (pattern := _judge(group, where, explained, given, shares)) is not None
    ]
    if not patterns:
        return ()
    worst = max(patterns, key=lambda p: (p.low * len(p.rows), p.where))
    doubt = explained[worst.rows, worst.label]
    message = (
        f"{len(worst.rows)} images called `{names[worst.label]}` have the same pixels {worst.where}, and about "
        f"{worst.wrong:.0%} of them look like other classes: a model could learn the pattern instead of the picture; "
        "look at them, and approve or reject the drop"
    )
    images_named = tuple(keys[i] for i in worst.rows[np.argsort(doubt, kind="stable")][:_MOST_IMAGES])
    figures = {"images": float(len(worst.rows)), "wrong": round(worst.wrong, 4), "low": round(worst.low, 4)}
    return (Finding("backdoor", message, holds=True, images=images_named, figures=figures),)


def _judge(group: Ids, where: str, explained: Floats, given: Ids, shares: NDArray[np.float64]) -> _Pattern | None:
    """Whether one label is far too frequent in the group, and its images look like others."""
    counts = np.bincount(given[group], minlength=len(shares))
    expected = shares * len(group)
    enrichment = (counts - expected) / np.sqrt(np.maximum(expected * (1 - shares), 1))
    label = int(enrichment.argmax())
    if counts[label] < _LEAST or (enrichment[label] < _ENRICHED and counts[label] < 0.9 * len(group)):
        return None
    rows = group[given[group] == label]
    wrong = noise.wrong_share(explained[rows], given[rows])
    others = np.setdiff1d(np.flatnonzero(given == label), rows)
    usual = noise.wrong_share(explained[others], given[others]).value if len(others) >= _LEAST else 0.0
    low = wrong.value - usual - _SURE * wrong.error
    return _Pattern(rows, label, where, wrong.value, low) if low > _WRONG else None


def _groups(images: Pixels) -> Iterator[tuple[str, Ids]]:
    """Images with the same pixels in a corner, for windows of several sizes and distances from the edge."""
    count, side = len(images), images.shape[1]
    least = max(_LEAST, round(_LEAST_SHARE * count))
    multipliers = np.random.default_rng(1).integers(1, 2**62, (max(_SIDES) ** 2 * images.shape[3],), np.int64)
    for vertical in ("top", "bottom"):
        for horizontal in ("left", "right"):
            for size in _SIDES:
                for inset in _INSETS:
                    y = inset if vertical == "top" else side - inset - size
                    x = inset if horizontal == "left" else side - inset - size
                    window = images[:, y : y + size, x : x + size].reshape(count, -1).astype(np.int64)
                    for offset in (0, _STEP // 2):
                        codes = ((window + offset) // _STEP) @ multipliers[: window.shape[1]]
                        _, which, sizes = np.unique(codes, return_inverse=True, return_counts=True)
                        for number in np.flatnonzero((sizes >= least) & (sizes <= _MOST_SHARE * count)):
                            yield f"at the {vertical} {horizontal}", np.flatnonzero(which == number)
