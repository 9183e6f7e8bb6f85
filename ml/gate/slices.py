"""Where a challenger might be worse though it is better over all: classes, drops, brightness, what is old, corruptions.

Pure: samples, answers and how they are grouped go in, a row a group comes out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ml.gate import statistics
from ml.gate.statistics import Right

MOST_DROPS: Final = 20
"""The newest ones; tests of more groups would each have to be stricter."""
_DOUBT = 0.25
_FEW = 10


@dataclass(frozen=True)
class Group:
    """A part of the compared samples; `champion` and `challenger` say which answers are right, ``bool[N]``."""

    kind: str
    name: str
    champion: Right
    challenger: Right


def group(kind: str, names: NDArray[Any] | Sequence[str], champion: Right, challenger: Right) -> list[Group]:
    """Samples grouped by `names`, one of each sample; an empty name belongs to no group."""
    each = np.asarray(names, np.str_)
    return [
        Group(kind, str(name), champion[each == name], challenger[each == name]) for name in np.unique(each) if name
    ]


def bands(brightness: NDArray[np.float64]) -> NDArray[np.str_]:
    """Dark, medium or bright: thirds of the samples at hand."""
    low, high = np.quantile(brightness, [1 / 3, 2 / 3])
    return np.where(brightness <= low, "dark", np.where(brightness <= high, "medium", "bright")).astype(np.str_)


def judge(groups: Sequence[Group], margin: float, alpha: float) -> list[dict[str, Any]]:
    """A row a group: samples, accuracies, p that it is not worse, and a finding.

    The finding is ``worse`` where the accuracy fell by more than `margin` and the exact McNemar test says that
    it fell, with Holm's correction over all groups; ``unclear`` where it fell by more than `margin` on a few
    samples, without that being proven; ``fine`` else.
    """
    p_values = [
        statistics.mcnemar(int((g.champion & ~g.challenger).sum()), int((g.challenger & ~g.champion).sum()))
        for g in groups
    ]
    fallen = statistics.holm(p_values, alpha)
    return [_row(g, p, f, margin) for g, p, f in zip(groups, p_values, fallen, strict=True)]


def _row(of: Group, p_value: float, fell: bool, margin: float) -> dict[str, Any]:
    was, now = float(of.champion.mean()), float(of.challenger.mean())
    beyond = was - now > margin + 1e-9
    unclear = beyond and not fell and len(of.champion) >= _FEW and p_value < _DOUBT
    return {
        "kind": of.kind,
        "name": of.name,
        "samples": len(of.champion),
        "champion": round(was, 4),
        "challenger": round(now, 4),
        "p_worse": round(p_value, 5),
        "finding": "worse" if beyond and fell else "unclear" if unclear else "fine",
    }
