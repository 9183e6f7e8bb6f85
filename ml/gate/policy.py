"""From figures to a verdict, in words a person understands. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ml.gate import statistics
from ml.gate.statistics import Right
from ml.settings import Settings

Verdict = Literal["promote", "reject", "needs_person"]


@dataclass(frozen=True)
class Policy:
    """The settings that decide; see `ml.settings` for their meaning."""

    alpha: float
    min_holdout: int
    margin: float = 0.05
    calibration_margin: float = 0.05
    max_milliseconds: float | None = None
    max_bytes: int | None = None
    review: Literal["never", "borderline", "always"] = "never"
    review_hours: float = 24.0

    @classmethod
    def of(cls, settings: Settings) -> "Policy":
        return cls(
            settings.gate_alpha,
            settings.gate_min_holdout,
            settings.gate_margin,
            settings.gate_calibration_margin,
            settings.gate_max_milliseconds,
            settings.gate_max_bytes,
            settings.gate_review,
            settings.gate_review_hours,
        )


@dataclass(frozen=True)
class Ruling:
    """The verdict and why."""

    verdict: Verdict
    reason: str


def first_model(right: Right, labels: NDArray[np.int64], figures: Mapping[str, Any], policy: Policy) -> Ruling:
    """There is no champion: promote what is surely better than naming the commonest class."""
    if problem := too_small(len(right), policy):
        return problem
    accuracy, (low, high) = float(right.mean()), statistics.wilson(int(right.sum()), len(right))
    commonest = float(np.bincount(labels).max() / len(labels))
    told = f"{accuracy:.1%} right on {len(right)} holdout samples (95% interval {low:.1%} to {high:.1%})"
    if low <= commonest:
        return Ruling("reject", f"{told} is not surely better than always naming the commonest class ({commonest:.1%})")
    if over := over_budget(figures, policy):
        return Ruling("reject", f"{over}; {told}")
    ruling = Ruling("promote", f"first model: {told}; always naming the commonest class gives {commonest:.1%}")
    return _asked(ruling, [], policy)


def against_champion(figures: Mapping[str, Any], policy: Policy) -> Ruling:
    """Promote iff surely better by the chosen metric, worse nowhere that counts, and within the budgets."""
    told = told_of(figures)
    if obstacles := harms(figures, policy):
        return Ruling("reject", f"{'; '.join(obstacles)}; {told}")
    spent = figures["budget"]
    p_value, better = spent["gain"]["p_value"], spent["gain"]["difference"] > 0
    if better and p_value <= spent["level"]:
        return _asked(Ruling("promote", told), doubts(figures), policy)
    if not (better and p_value <= policy.alpha):
        return Ruling("reject", f"not provably better: {told}")
    reason = f"better, but not beyond what chance does in so many decisions (level {spent['level']:.2g}): {told}"
    return Ruling("reject" if policy.review == "never" else "needs_person", reason)


def harms(figures: Mapping[str, Any], policy: Policy) -> list[str]:
    """What forbids a promotion, however much better the rest is."""
    worse = [f"{row['kind']} {row['name']}" for row in figures["groups"] if row["finding"] == "worse"]
    found = [f"worse on {', '.join(worse)}"] if worse else []
    if figures["calibration_rise_least"] > policy.calibration_margin:
        found.append(f"its confidence is off by {figures['calibration_rise']:.1%} more than the champion's")
    if figures["lost_classes"]:
        found.append(f"it does not know class {', '.join(figures['lost_classes'])} any more")
    if over := over_budget(figures, policy):
        found.append(over)
    return found


def doubts(figures: Mapping[str, Any]) -> list[str]:
    """What a person may want to look at: a drop beyond the margin that is not proven."""
    unclear = [f"{row['kind']} {row['name']}" for row in figures["groups"] if row["finding"] == "unclear"]
    found = [f"unclear on {', '.join(unclear)}"] if unclear else []
    if figures["new_classes"]:
        found.append(f"new class {', '.join(figures['new_classes'])}")
    return found


def over_budget(figures: Mapping[str, Any], policy: Policy) -> str | None:
    """What it costs to serve beyond what is allowed."""
    served = figures["served"]
    if policy.max_milliseconds is not None and served["milliseconds"] > policy.max_milliseconds:
        return f"an image takes {served['milliseconds']:.2f} ms, at most {policy.max_milliseconds:g} are allowed"
    if policy.max_bytes is not None and served["bytes"] > policy.max_bytes:
        return f"it has {served['bytes']} bytes, at most {policy.max_bytes} are allowed"
    return None


def told_of(figures: Mapping[str, Any]) -> str:
    """The comparison in a line."""
    told = (
        f"{figures['challenger_accuracy']:.1%} against {figures['champion_accuracy']:.1%} on {figures['samples']} "
        f"holdout samples: {figures['challenger_only_right']} gained, {figures['champion_only_right']} lost, "
    )
    spent = figures["budget"]
    if spent["metric"] != "accuracy":
        gain = spent["gain"]
        told += f"{spent['metric_words']} {gain['challenger']:.3f} against {gain['champion']:.3f}, "
    if spent["samples"] != figures["samples"]:
        told += f"tested on the {spent['samples']} fresh ones, "
    return told + f"p {_p(spent['gain']['p_value'])}"


def _asked(promotion: Ruling, doubtful: list[str], policy: Policy) -> Ruling:
    if policy.review == "always":
        return Ruling("needs_person", f"a person is always asked: {'; '.join([*doubtful, promotion.reason])}")
    if policy.review == "borderline" and doubtful:
        return Ruling("needs_person", f"{'; '.join(doubtful)}; {promotion.reason}")
    return promotion


def too_small(samples: int, policy: Policy) -> Ruling | None:
    """The answer where there is nothing to decide on; nothing was consulted then."""
    if samples >= policy.min_holdout:
        return None
    return Ruling(
        "reject", f"the holdout has {samples} samples, at least {policy.min_holdout} are needed to decide anything"
    )


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"= {value:.4f}"
