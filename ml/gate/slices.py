"""Groups in which a challenger may be worse though it is better overall: classes, drops, brightness, age, corruptions.

Pure functions from grouped results to figures of each group. A group counts as harmed only if the champion was useful
there, the loss exceeds the tolerance for a group of its size, and the loss is significant at a family-wise error rate
of `alpha` over all groups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ml.gate import betting, statistics
from ml.gate.betting import Differences
from ml.gate.statistics import Right

MOST_DROPS: Final = 20
"""The newest drops; with more groups each test would have to be stricter."""
BESIDE_NEW: Final = "class beside new ones"
"""Kind of a class that can now be mistaken for a new one: it is harmed if it loses half of its right answers."""
_DOUBT: Final = 1.0
"""Standard deviations beyond the tolerance from which an insignificant loss counts as doubtful."""
_FEW: Final = 10
_HALF: Final = 0.5


@dataclass(frozen=True)
class Group:
    """A group of the compared samples.

    Attributes:
        champion: which of its predictions are right, ``bool[N]``.
        challenger: likewise.
        weight: share of the traffic in this group, 0..1.
        judged: False if the group is only reported.
    """

    kind: str
    name: str
    champion: Right
    challenger: Right
    weight: float
    judged: bool = True


Finding = Literal["worse", "unclear", "useless", "fine"]
"""See `evaluate_groups`."""


@dataclass(frozen=True)
class GroupFigures:
    """The comparison in one group; part of the decision's statistics as JSON.

    Attributes:
        champion: its accuracy.
        challenger: likewise.
        tolerated: the tolerated loss of accuracy.
        p_worse: p-value of a larger loss.
        judged: False if the group is only reported.
    """

    kind: str
    name: str
    samples: int
    champion: float
    challenger: float
    tolerated: float
    p_worse: float
    finding: Finding
    judged: bool


@dataclass(frozen=True)
class Tolerance:
    """The tolerated loss of a group, as shares.

    Attributes:
        margin: tolerated loss over all samples; a group may lose this divided by its weight.
        group_margin: tolerated in any group, however large.
        classes: number of classes; a group with an accuracy near guessing cannot be harmed.
        alpha: family-wise probability that a group is reported as harmed although none is.
    """

    margin: float
    group_margin: float
    classes: int
    alpha: float

    @property
    def useful(self) -> float:
        """Minimum accuracy of a useful champion: twice that of guessing, or halfway from guessing to 100 %."""
        chance = 1 / max(1, self.classes)
        return min(2 * chance, (1 + chance) / 2)

    def allowed_loss(self, group: Group) -> float:
        """The tolerated loss of a group, at most half of the champion's accuracy there."""
        accuracy = float(group.champion.mean())
        if group.kind == BESIDE_NEW:
            return _HALF * accuracy
        return min(max(self.group_margin, self.margin / max(group.weight, 1e-9)), _HALF * accuracy)


def group(
    kind: str,
    names: NDArray[Any] | Sequence[str],
    champion: Right,
    challenger: Right,
    weights: Mapping[str, float] | None = None,
) -> list[Group]:
    """Group samples by `names`, one name per sample; samples with an empty name are in no group.

    Args:
        weights: shares of groups in the traffic; a group weighs at least its share of the samples.
    """
    sample_names, traffic = np.asarray(names, np.str_), weights or {}
    groups = []
    for name in np.unique(sample_names):
        if name:
            mask = sample_names == name
            weight = max(float(mask.mean()), traffic.get(str(name), 0.0))
            groups.append(Group(kind, str(name), champion[mask], challenger[mask], weight))
    return groups


def bands(brightness: NDArray[np.float64]) -> NDArray[np.str_]:
    """Dark, medium or bright: thirds of the given samples."""
    low, high = np.quantile(brightness, [1 / 3, 2 / 3])
    return np.where(brightness <= low, "dark", np.where(brightness <= high, "medium", "bright")).astype(np.str_)


def evaluate_groups(groups: Sequence[Group], tolerance: Tolerance) -> list[GroupFigures]:
    """Compare the models in each group.

    The finding is ``worse`` if the loss significantly exceeds the tolerance, with Holm's correction over all judged
    groups; ``unclear`` if it seems to; ``useless`` if the champion was not useful there; otherwise ``fine``. Groups
    that are only reported are tested without correction; of the kind `BESIDE_NEW`, what seems so is ``worse`` too.
    """
    measured = [_test_group(g, tolerance, len(groups)) for g in groups]
    counted = [i for i, g in enumerate(groups) if g.judged and g.champion.mean() >= tolerance.useful]
    fallen = dict(zip(counted, statistics.holm([measured[i][1] for i in counted], tolerance.alpha), strict=True))
    return [
        _figures(g, allowed, p, fallen.get(i, not g.judged and p <= tolerance.alpha), tolerance)
        for i, (g, (allowed, p)) in enumerate(zip(groups, measured, strict=True))
    ]


def _test_group(part: Group, tolerance: Tolerance, groups: int) -> tuple[float, float]:
    """The tolerated loss, and the p-value of a larger one."""
    allowed = tolerance.allowed_loss(part)
    losses = Differences.from_samples(part.champion.astype(np.float64) - part.challenger)
    return allowed, betting.p_value(losses, allowed, tolerance.alpha / groups)


def _figures(part: Group, allowed: float, p_value: float, is_worse: bool, tolerance: Tolerance) -> GroupFigures:
    was, now = float(part.champion.mean()), float(part.challenger.mean())
    losses = Differences.from_samples(part.champion.astype(np.float64) - part.challenger)
    doubtful = len(part.champion) >= _FEW and betting.score(losses, allowed) >= _DOUBT
    is_lost = part.kind == BESIDE_NEW and doubtful  # the loss of half a class need not be proven beyond doubt
    finding: Finding = "worse" if is_worse or is_lost else "unclear" if doubtful else "fine"
    return GroupFigures(
        kind=part.kind,
        name=part.name,
        samples=len(part.champion),
        champion=round(was, 4),
        challenger=round(now, 4),
        tolerated=round(allowed, 4),
        p_worse=round(p_value, 5),
        finding=finding if was >= tolerance.useful else "useless",
        judged=part.judged,
    )
