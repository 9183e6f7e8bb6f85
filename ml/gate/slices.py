"""Where a challenger might be worse though it is better over all: classes, drops, brightness, what is old, corruptions.

Pure: samples, answers and how they are grouped go in, a row a group comes out. A group counts as harmed only where
the harm matters: the champion was of use there, the loss is beyond what is tolerated of a group of its size, and it
is proven so that all groups together accuse a challenger that harms none with probability `alpha` at most.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ml.gate import betting, statistics
from ml.gate.betting import Differences
from ml.gate.statistics import Right

MOST_DROPS: Final = 20
"""The newest ones; tests of more groups would each have to be stricter."""
_DOUBT: Final = 1.0
"""Standard deviations beyond what is tolerated, from which a loss that is not proven is doubtful."""
_FEW: Final = 10
_HALF: Final = 0.5


@dataclass(frozen=True)
class Group:
    """A part of the compared samples.

    Attributes:
        champion: which of its answers are right, ``bool[N]``.
        challenger: likewise.
        weight: the share of the traffic that is like this, 0..1.
        judged: False for what is only reported.
    """

    kind: str
    name: str
    champion: Right
    challenger: Right
    weight: float
    judged: bool = True


@dataclass(frozen=True)
class Tolerance:
    """What a group may lose, as shares.

    Attributes:
        margin: over all samples; a group may cost the whole this much, so it may lose this over its weight itself.
        group_margin: in any group, however large.
        classes: that there are; a champion that is hardly better than guessing among them cannot be harmed.
        alpha: chance that any group of a challenger that harms none is said to be harmed.
    """

    margin: float
    group_margin: float
    classes: int
    alpha: float

    @property
    def useful(self) -> float:
        """Accuracy from which a champion is of use: twice that of guessing, or half way from there to perfection."""
        chance = 1 / max(1, self.classes)
        return min(2 * chance, (1 + chance) / 2)

    def allowed_loss(self, group: Group) -> float:
        """What a group may lose; but never more than half of what the champion got right there."""
        accuracy = float(group.champion.mean())
        return min(max(self.group_margin, self.margin / max(group.weight, 1e-9)), _HALF * accuracy)


def group(
    kind: str,
    names: NDArray[Any] | Sequence[str],
    champion: Right,
    challenger: Right,
    weights: Mapping[str, float] | None = None,
) -> list[Group]:
    """Samples grouped by `names`, one of each sample; an empty name belongs to no group.

    Args:
        weights: of groups in the traffic; a group weighs its share of the samples at least.
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
    """Dark, medium or bright: thirds of the samples at hand."""
    low, high = np.quantile(brightness, [1 / 3, 2 / 3])
    return np.where(brightness <= low, "dark", np.where(brightness <= high, "medium", "bright")).astype(np.str_)


def evaluate_groups(groups: Sequence[Group], tolerance: Tolerance) -> list[dict[str, Any]]:
    """A row a group: samples, accuracies, what it may lose, p that it lost no more, and a finding.

    The finding is ``worse`` where it lost more than it may and that is proven, with Holm's correction over all
    groups that are judged; ``unclear`` where it seems so; ``fine`` else; ``useless`` where the champion was of no use
    before. Groups that are only reported are judged by the same measure, each by itself.
    """
    measured = [_test_group(g, tolerance, len(groups)) for g in groups]
    counted = [i for i, g in enumerate(groups) if g.judged and g.champion.mean() >= tolerance.useful]
    fallen = dict(zip(counted, statistics.holm([measured[i][1] for i in counted], tolerance.alpha), strict=True))
    return [
        _row(g, allowed, p, fallen.get(i, not g.judged and p <= tolerance.alpha), tolerance)
        for i, (g, (allowed, p)) in enumerate(zip(groups, measured, strict=True))
    ]


def _test_group(part: Group, tolerance: Tolerance, groups: int) -> tuple[float, float]:
    """What it may lose, and p that it lost no more."""
    allowed = tolerance.allowed_loss(part)
    losses = Differences.from_samples(part.champion.astype(np.float64) - part.challenger)
    return allowed, betting.p_value(losses, allowed, tolerance.alpha / groups)


def _row(part: Group, allowed: float, p_value: float, is_worse: bool, tolerance: Tolerance) -> dict[str, Any]:
    was, now = float(part.champion.mean()), float(part.challenger.mean())
    losses = Differences.from_samples(part.champion.astype(np.float64) - part.challenger)
    doubtful = len(part.champion) >= _FEW and betting.score(losses, allowed) >= _DOUBT
    finding = "worse" if is_worse else "unclear" if doubtful else "fine"
    return {
        "kind": part.kind,
        "name": part.name,
        "samples": len(part.champion),
        "champion": round(was, 4),
        "challenger": round(now, 4),
        "tolerated": round(allowed, 4),
        "p_worse": round(p_value, 5),
        "finding": finding if was >= tolerance.useful else "useless",
        "judged": part.judged,
    }
