"""Decides on the figures: a verdict and its reason in plain language. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ml.gate import slices, statistics
from ml.gate.lead import Lead
from ml.gate.statistics import Right
from ml.settings import Settings

Verdict = Literal["promote", "reject", "needs_person"]
_NAMED: Final = 5


@dataclass(frozen=True)
class Policy:
    """The gate settings; see `ml.settings` for their meaning."""

    rule: Literal["better", "proven"] = "better"
    alpha: float = 0.05
    min_holdout: int = 30
    margin: float = 0.01
    risk: float = 0.05
    group_margin: float = 0.05
    corruptions: Literal["report", "ask", "veto"] = "report"
    calibration_margin: float = 0.05
    max_milliseconds: float | None = None
    max_bytes: int | None = None
    review: Literal["never", "borderline", "always"] = "never"
    review_hours: float = 24.0
    relabelled: float = 0.02

    @classmethod
    def from_settings(cls, settings: Settings) -> "Policy":
        return cls(**{name: getattr(settings, f"gate_{name}") for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Ruling:
    """The verdict and its reason."""

    verdict: Verdict
    reason: str


def first_model(right: Right, labels: NDArray[np.int64], figures: Mapping[str, Any], policy: Policy) -> Ruling:
    """Without a champion: promote a model that is significantly better than always predicting the commonest class."""
    if problem := too_small(len(right), policy):
        return problem
    accuracy, (low, high) = float(right.mean()), statistics.wilson(int(right.sum()), len(right))
    commonest = float(np.bincount(labels).max() / len(labels))
    accuracy_line = (
        f"{accuracy:.1%} right on {len(right)} holdout {_counted(figures)} (95% interval {low:.1%} to {high:.1%})"
    )
    if low <= commonest:
        return Ruling(
            "reject", f"{accuracy_line} is not surely better than always naming the commonest class ({commonest:.1%})"
        )
    if over := over_budget(figures, policy):
        return Ruling("reject", f"{over}; {accuracy_line}")
    ruling = Ruling("promote", f"first model: {accuracy_line}; always naming the commonest class gives {commonest:.1%}")
    return _with_review(ruling, {}, policy)


def against_champion(figures: Mapping[str, Any], policy: Policy) -> Ruling:
    """Promote by the configured rule, if the challenger harms no group and is within the budgets."""
    compared = "; ".join(
        [
            *_new_classes(figures),
            *_weaker_when_corrupted(figures, policy),
            *_relabelled(figures),
            compared_with(figures),
        ]
    )
    if obstacles := harms(figures, policy):
        ruling = Ruling("reject", f"{'; '.join(obstacles)}; {compared}")
    else:
        ruling = (_better if policy.rule == "better" else _proven)(figures, policy, compared)
    return _with_relabelling(ruling, figures, policy)


def _with_relabelling(ruling: Ruling, figures: Mapping[str, Any], policy: Policy) -> Ruling:
    """A request for approval if too many labels of the holdout were changed and the verdict hangs on them.

    Judged by the labels as they were, a challenger that learned a correction of many labels never wins; judged by the
    changed ones, one that was poisoned does. Only a person can tell these apart. What is ahead on neither is rejected.
    """
    changes = figures["relabelled"]
    if changes["share"] <= policy.relabelled or over_budget(figures, policy) or figures["lost_classes"]:
        return ruling
    accuracy = changes["accuracy_after"]
    if ruling.verdict == "reject" and accuracy["challenger"] <= accuracy["champion"]:
        return ruling
    return Ruling(
        "needs_person",
        f"{changes['share']:.1%} of the holdout's labels were changed, more than {policy.relabelled:.1%} need a "
        f"person; by the labels as they are now it has {accuracy['challenger']:.1%} right, the champion "
        f"{accuracy['champion']:.1%}; by those before: {ruling.reason}",
    )


def _relabelled(figures: Mapping[str, Any]) -> list[str]:
    """Which labels of the holdout were changed by whom, and that they count as they were before."""
    changes = figures["relabelled"]
    if not changes["changed"]:
        return []
    count, before, after = changes["changed"], changes["right_before"], changes["right_after"]
    sources = [
        f"{row['by']} changed {row['changed']} of the holdout's labels "
        f"({listed([_change(pair) for pair in row['classes']])})"
        for row in changes["by"]
    ]
    these = "this one" if count == 1 else f"these {count}"
    return [
        f"{listed(sources)}, which count as before; on {these} the champion has {before['champion']} right by the old "
        f"labels and {after['champion']} by the new, the challenger {before['challenger']} and {after['challenger']}"
    ]


def _better(figures: Mapping[str, Any], policy: Policy, compared: str) -> Ruling:
    """Rule `better`: ahead of the champion, and no loss beyond the margin against it or the best so far."""
    if not _ahead(figures):
        return Ruling("reject", f"not better: {compared}")
    if (doubt := too_uncertain(figures, policy)) is None:
        return _with_review(Ruling("promote", f"{compared}; {_at_worst(figures)}"), figures, policy)
    return Ruling("reject" if policy.review == "never" else "needs_person", f"{doubt}: {compared}")


def _proven(figures: Mapping[str, Any], policy: Policy, compared: str) -> Ruling:
    """Rule `proven`: significantly better than the champion, accounting for earlier use of the holdout."""
    spent = figures["budget"]
    p_value, better = spent["gain"]["p_value"], spent["gain"]["difference"] > 0
    compared += f", p {_p(p_value)}"
    if better and p_value <= spent["level"]:
        if doubt := _behind_the_best(figures, policy):
            return Ruling("reject", f"{doubt}: {compared}")
        return _with_review(Ruling("promote", compared), figures, policy)
    if not (better and p_value <= policy.alpha):
        return Ruling("reject", f"not provably better: {compared}")
    reason = f"better, but not beyond what chance does in so many decisions (level {spent['level']:.2g}): {compared}"
    return Ruling("reject" if policy.review == "never" else "needs_person", reason)


def lacks_samples_only(figures: Mapping[str, Any], policy: Policy) -> bool:
    """Whether the challenger is ahead and only more samples are needed to exclude a loss beyond the margin."""
    rows = figures["incumbents"]
    seems = any(mean is not None and mean <= -policy.margin for r in rows for mean in (r["metric"], r["brier"]))
    return _ahead(figures) and not seems and too_uncertain(figures, policy) is not None


def too_uncertain(figures: Mapping[str, Any], policy: Policy) -> str | None:
    """The model and score for which a loss beyond the margin is not excluded; None if there is none."""
    for row in figures["incumbents"]:
        if row["metric_least"] <= -policy.margin:
            return "ahead, but " + _uncertain(row, policy, row["metric"], row["metric_least"], "it is worse than", "")
        if row["brier_least"] is not None and row["brier_least"] <= -policy.margin:
            worse = "its probabilities are worse than those of"
            return "ahead, but " + _uncertain(
                row, policy, row["brier"], row["brier_least"], worse, " by the Brier score"
            )
    overall = figures["lead"] | {name: figures["incumbents"][0][name] for name in ("role", "version")}
    if figures["new_classes"] and overall["metric_least"] <= -policy.margin:
        worse = "with the new classes it is worse than"
        return "ahead, but " + _uncertain(overall, policy, overall["metric"], overall["metric_least"], worse, "")
    return None


def _uncertain(row: Mapping[str, Any], policy: Policy, mean: float, least: float, worse: str, by: str) -> str:
    if mean <= -policy.margin:
        return f"{worse} {_model_name(row)} by {points(-mean)}{by}"
    return (
        f"{row['samples']} samples cannot exclude that {worse} {_model_name(row)} "
        f"by more than {points(policy.margin)}{by} (it may be {points(-least)})"
    )


def _behind_the_best(figures: Mapping[str, Any], policy: Policy) -> str | None:
    """Possible loss beyond the margin against an earlier champion: small losses must not add up."""
    for row in figures["incumbents"]:
        if row["role"] != "champion" and row["metric_least"] <= -policy.margin:
            return f"it may be worse than {_model_name(row)} by {points(-row['metric_least'])}"
    return None


def _ahead(figures: Mapping[str, Any]) -> bool:
    return Lead(**figures["lead"]).ahead


def harms(figures: Mapping[str, Any], policy: Policy) -> list[str]:
    """Reasons that block a promotion whatever the other figures are."""
    worse = [_group(row) for row in figures["groups"] if row["finding"] == "worse" and row["judged"]]
    obstacles = [f"worse on {', '.join(worse)}"] if worse else []
    if figures["calibration_rise_least"] > policy.calibration_margin:
        obstacles.append(f"its confidence is off by {figures['calibration_rise']:.1%} more than the champion's")
    if figures["lost_classes"]:
        obstacles.append(f"it does not know class {listed(figures['lost_classes'])} any more")
    if over := over_budget(figures, policy):
        obstacles.append(over)
    return obstacles


def doubts(figures: Mapping[str, Any]) -> list[str]:
    """Reasons for a review: losses beyond the tolerance that are not significant, and new classes."""
    unclear = [_group(row) for row in figures["groups"] if row["finding"] == "unclear" and row["judged"]]
    doubtful = [f"unclear on {', '.join(unclear)}"] if unclear else []
    if figures["new_classes"]:
        doubtful.append(f"new class {listed(figures['new_classes'])}")
    return doubtful


def _new_classes(figures: Mapping[str, Any]) -> list[str]:
    """Results on the new classes, and how many of them the challenger does not know."""
    counts, names = figures["new_class_answers"], figures["new_classes"]
    if not names:
        return []
    subject, stay, have, pronoun = (
        (f"new class {names[0]}", "stays", "has", "it")
        if len(names) == 1
        else (f"{len(names)} new classes", "stay", "have", "one")
    )
    if not counts["samples"]:
        return [f"the {subject} {have} no holdout samples yet"]
    answers = f"{counts['right']} of {counts['samples']} samples right"
    if counts["unknown"] == counts["sampled"]:
        return [f"the {subject} {stay} unknown, {answers}"]
    unknown = f", but {counts['unknown']} of {counts['sampled']} stay unknown" if counts["unknown"] else ""
    mistaken = counts.get("mistaken")  # not counted by earlier versions
    other = f", {mistaken} of {counts['known']} samples of other classes mistaken for {pronoun}" if mistaken else ""
    return [f"the {subject}: {answers}{other}{unknown}"]


def _weaker_when_corrupted(figures: Mapping[str, Any], policy: Policy) -> list[str]:
    weaker = _corrupted(figures) if policy.corruptions == "report" else ""
    return [f"warning: worse on {weaker}"] if weaker else []


def _corrupted(figures: Mapping[str, Any]) -> str:
    rows = [row for row in figures["groups"] if row["kind"] == "corruption" and row["finding"] == "worse"]
    return ", ".join(_group(row) for row in rows)


def _group(row: Mapping[str, Any]) -> str:
    mistaken = row["kind"] == slices.BESIDE_NEW
    name = f"class {row['name']}, mistaken for new classes" if mistaken else f"{row['kind']} {row['name']}"
    return f"{name} ({row['challenger']:.0%} after {row['champion']:.0%})"


def listed(names: Sequence[str]) -> str:
    """Join names for a sentence; of many, the first ones and the number of the rest."""
    return ", ".join(names) if len(names) <= _NAMED else f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"


def over_budget(figures: Mapping[str, Any], policy: Policy) -> str | None:
    """The exceeded limit of latency or size; None if both are within their limits."""
    served = figures["served"]
    if policy.max_milliseconds is not None and served["milliseconds"] > policy.max_milliseconds:
        return f"an image takes {served['milliseconds']:.2f} ms, at most {policy.max_milliseconds:g} are allowed"
    if policy.max_bytes is not None and served["bytes"] > policy.max_bytes:
        return f"it has {served['bytes']} bytes, at most {policy.max_bytes} are allowed"
    return None


def compared_with(figures: Mapping[str, Any]) -> str:
    """The comparison in one line."""
    line = (
        f"{figures['challenger_accuracy']:.1%} against {figures['champion_accuracy']:.1%} on {figures['samples']} "
        f"holdout {_counted(figures)}: {figures['challenger_only_right']} gained, {figures['champion_only_right']} lost"
    )
    spent, rule = figures["budget"], figures["rules"]["rule"]
    if spent["metric"] != "accuracy":
        gain = spent["gain"]
        line += f", {spent['metric_words']} {gain['challenger']:.3f} against {gain['champion']:.3f}"
    if rule == "proven" and spent["samples"] != figures["samples"]:
        line += f", tested on the {spent['samples']} fresh ones"
    return line


def _change(pair: Mapping[str, Any]) -> str:
    return f"{pair['changed']} {pair['before']} to {pair['after']}"


def _counted(figures: Mapping[str, Any]) -> str:
    """What was counted: samples, or groups where near copies counted once."""
    samples = figures["holdout_samples"]
    return "samples" if samples == figures["holdout"] else f"groups of near copies ({samples} samples)"


def _at_worst(figures: Mapping[str, Any]) -> str:
    """The largest possible loss against the models compared with."""
    row = min(figures["incumbents"], key=lambda row: row["metric_least"])
    if not row["samples"]:
        return f"no sample is of a class that {_model_name(row)} knows"
    least = row["metric_least"]
    return (
        f"at worst {points(-least)} behind {_model_name(row)}"
        if least < 0
        else f"ahead of {_model_name(row)} even at worst"
    )


def _model_name(row: Mapping[str, Any]) -> str:
    return f"the champion (v{row['version']})" if row["role"] == "champion" else f"the best so far (v{row['version']})"


def points(share: float) -> str:
    """Format a share as percentage points."""
    number = f"{100 * share:.1f}".removesuffix(".0")
    return f"{number} point{'' if number == '1' else 's'}"


def _with_review(promotion: Ruling, figures: Mapping[str, Any], policy: Policy) -> Ruling:
    """The promotion, or a request for approval; `figures` are empty without a champion."""
    doubtful = doubts(figures) if figures else []
    if policy.corruptions == "ask" and figures and (weaker := _corrupted(figures)):
        return Ruling("needs_person", f"worse on {weaker}; {promotion.reason}")
    if policy.review == "always":
        return Ruling("needs_person", f"a person is always asked: {'; '.join([*doubtful, promotion.reason])}")
    if policy.review == "borderline" and doubtful:
        return Ruling("needs_person", f"{'; '.join(doubtful)}; {promotion.reason}")
    return promotion


def too_small(samples: int, policy: Policy) -> Ruling | None:
    """The rejection if the holdout is too small; the holdout counts as unused then."""
    if samples >= policy.min_holdout:
        return None
    return Ruling(
        "reject", f"the holdout has {samples} samples, at least {policy.min_holdout} are needed to decide anything"
    )


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"= {value:.4f}"
