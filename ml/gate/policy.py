"""From figures to a verdict, in words a person understands. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ml.gate import statistics
from ml.gate.statistics import Comparison, Right

Verdict = Literal["promote", "reject"]
HARM = 0.05


@dataclass(frozen=True)
class Policy:
    """`alpha`: accepted chance of promoting an equal model; `min_holdout`: fewer samples decide nothing."""

    alpha: float
    min_holdout: int


@dataclass(frozen=True)
class Ruling:
    """The verdict and why."""

    verdict: Verdict
    reason: str


def first_model(right: Right, labels: NDArray[np.int64], policy: Policy) -> Ruling:
    """There is no champion: promote what is surely better than naming the commonest class."""
    if too_small := _too_small(len(right), policy):
        return too_small
    accuracy, (low, high) = float(right.mean()), statistics.wilson(int(right.sum()), len(right))
    commonest = float(np.bincount(labels).max() / len(labels))
    told = f"{accuracy:.1%} right on {len(right)} holdout samples (95% interval {low:.1%} to {high:.1%})"
    if low <= commonest:
        return Ruling("reject", f"{told} is not surely better than always naming the commonest class ({commonest:.1%})")
    return Ruling("promote", f"first model: {told}; always naming the commonest class gives {commonest:.1%}")


def against_champion(comparison: Comparison, harmed: Sequence[str], policy: Policy) -> Ruling:
    """Promote iff surely better overall and surely worse on no class."""
    if too_small := _too_small(comparison.samples, policy):
        return too_small
    told = (
        f"{comparison.challenger_accuracy:.1%} against {comparison.champion_accuracy:.1%} on {comparison.samples} "
        f"holdout samples: {comparison.challenger_only_right} gained, {comparison.champion_only_right} lost, "
        f"p {_p(comparison.p_value)}"
    )
    if harmed:
        return Ruling("reject", f"worse on class {', '.join(harmed)}; {told}")
    if comparison.p_value < policy.alpha and comparison.difference > 0:
        return Ruling("promote", told)
    return Ruling("reject", f"not provably better: {told}")


def harmed_classes(
    champion: Right, challenger: Right, labels: NDArray[np.int64], classes: Sequence[str], alpha: float
) -> list[str]:
    """Classes on which the challenger is worse by more than `HARM`, significantly after Holm's correction."""
    present = [int(c) for c in np.unique(labels)]
    compared = [statistics.compare(champion[labels == c], challenger[labels == c], seed=0, rounds=1) for c in present]
    p_values = [statistics.mcnemar(c.champion_only_right, c.challenger_only_right) for c in compared]
    fallen = statistics.holm(p_values, alpha)
    return [classes[c] for c, was, f in zip(present, compared, fallen, strict=True) if f and was.difference < -HARM]


def by_class(right: Mapping[str, Right], labels: NDArray[np.int64], classes: Sequence[str]) -> list[dict[str, object]]:
    """A row a class: samples, and each model's accuracy on them."""
    return [
        {
            "class": classes[c],
            "samples": int((labels == c).sum()),
            **{name: round(float(r[labels == c].mean()), 4) for name, r in right.items()},
        }
        for c in np.unique(labels)
    ]


def _too_small(samples: int, policy: Policy) -> Ruling | None:
    if samples >= policy.min_holdout:
        return None
    return Ruling(
        "reject", f"the holdout has {samples} samples, at least {policy.min_holdout} are needed to decide anything"
    )


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"= {value:.4f}"
