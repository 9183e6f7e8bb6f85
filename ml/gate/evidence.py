"""Everything that challenger and champion show on the same holdout, as figures for policy, ledger and report."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ml.catalog import holdout_comparisons
from ml.catalog.holdout_comparisons import OUTCOMES, HoldoutComparison
from ml.context import Context
from ml.datasets.loader import Split
from ml.gate import budget, grouping, metrics, slices, statistics
from ml.gate.budget import HoldoutSubset
from ml.gate.lead import Lead, largest_loss, lead
from ml.gate.metrics import Metric, PerSample
from ml.gate.scores import Side
from ml.gate.slices import Tolerance
from ml.models import bundle, calibration, model

Mask = NDArray[np.bool_]
_LATENCY_ROUNDS: Final = 20


def alone(of: Side) -> dict[str, Any]:
    """What is told of a challenger with or without a champion."""
    n, right = len(of.right), int(of.right.sum())
    return {
        "holdout": n,
        "challenger_accuracy": right / n if n else None,
        "challenger_interval": statistics.wilson(right, n),
        "challenger_brier": float(of.answers.brier.mean()) if n else None,
        "challenger_calibration": statistics.reliability(of.answers.probability, of.right),
        "challenger_calibration_error": calibration.error(of.answers.probability, of.right, statistics.BINS),
        "served": served(of),
    }


def classes_alone(of: Side) -> list[dict[str, Any]]:
    """A row a class, where there is no champion."""
    return [
        {
            "kind": "class",
            "name": str(name),
            "samples": int((of.truth == name).sum()),
            "challenger": round(float(of.right[of.truth == name].mean()), 4),
        }
        for name in np.unique(of.truth)
    ]


def served(of: Side) -> dict[str, float]:
    """Bytes of what answers, and milliseconds of one image on one core, by the variant that a service runs."""
    info, variant = of.model.info, of.model.variant
    single = model.load(of.folder, threads=1, variant=variant, runtime=of.model.runtime.name)
    image = np.zeros((1, info.image_size, info.image_size, info.channels), np.uint8)
    seconds = []
    for _ in range(_LATENCY_ROUNDS):
        started = time.perf_counter()
        single.predict(image)
        seconds.append(time.perf_counter() - started)
    size = sum((of.folder / name).stat().st_size for name in bundle.FILES[variant])
    return {"bytes": size, "milliseconds": round(1000 * float(np.median(seconds)), 3)}


def against(ctx: Context, challenger: Side, champion: Side, best: Side, dataset: str) -> dict[str, Any]:
    """The paired figures; see `ml.gate.policy` for what follows from them.

    Args:
        best: the best champion so far; the champion, if that is the best.
    """
    settings = ctx.settings
    comparison = statistics.compare(champion.right, challenger.right, settings.seed)
    n, old_right = len(champion.right), int(champion.right.sum())
    before, after = ((s.answers.probability, s.right) for s in (champion, challenger))
    rise, surely = statistics.calibration_rise(before, after, settings.seed)
    classes = len(challenger.holdout.classes)
    tolerance = Tolerance(settings.gate_margin, settings.gate_group_margin, classes, settings.gate_alpha)
    return asdict(comparison) | {
        "champion_interval": statistics.wilson(old_right, n),
        "champion_brier": float(champion.answers.brier.mean()),
        "champion_calibration": statistics.reliability(*before),
        "champion_calibration_error": calibration.error(*before, statistics.BINS),
        "calibration_rise": rise,
        "calibration_rise_least": surely,
        "groups": slices.judge(grouping.groups(ctx, challenger, champion, dataset), tolerance),
        "new_classes": sorted(challenger.classes - champion.classes),
        "new_class_answers": _new_classes(challenger, champion),
        "lost_classes": sorted(champion.classes - challenger.classes),
        "lead": asdict(_lead(ctx, challenger, champion, np.ones(n, np.bool_))),
        "incumbents": [_incumbent(ctx, challenger, of, role) for of, role in _incumbents(champion, best)],
        "best_so_far": _best(ctx, champion, best).version,
        "budget": _budgeted(ctx, challenger, champion, best),
    }


def _incumbents(champion: Side, best: Side) -> list[tuple[Side, str]]:
    incumbents = [(champion, "champion")]
    return incumbents if best.version == champion.version else [*incumbents, (best, "best so far")]


def _incumbent(ctx: Context, challenger: Side, other: Side, role: str) -> dict[str, Any]:
    """The lead over a model on the classes that it knows: what it could not answer is no loss to anybody."""
    return {"version": other.version, "role": role} | asdict(_lead(ctx, challenger, other, _known(challenger, other)))


def _known(challenger: Side, other: Side) -> Mask:
    return np.isin(challenger.truth, sorted(other.classes))


def _lead(ctx: Context, challenger: Side, other: Side, among: Mask) -> Lead:
    brier = (other.answers.brier - challenger.answers.brier)[among]
    return lead(_per_sample(ctx, challenger, other, among), brier, ctx.settings.gate_risk)


def _best(ctx: Context, champion: Side, best: Side) -> Side:
    """The best so far, until the champion is surely better: were it replaced sooner, small losses could add up."""
    if best.version == champion.version:
        return champion
    return champion if _lead(ctx, champion, best, _known(champion, best)).metric_least > 0 else best


def _new_classes(challenger: Side, champion: Side) -> dict[str, float]:
    """How the challenger does on classes that the champion does not know.

    Returns:
        `samples` of them and how many are `right`; `sampled`, the classes that have samples, and of these how many stay
        `unknown`: right at most twice as often as guessing.
    """
    new = np.isin(challenger.truth, sorted(challenger.classes - champion.classes))
    guessing = 1 / max(1, len(challenger.classes))
    names, position = np.unique(challenger.truth[new], return_inverse=True)
    samples = np.bincount(position, minlength=len(names))
    right = np.bincount(position, challenger.right[new], len(names))
    return {
        "samples": int(new.sum()),
        "right": int(challenger.right[new].sum()),
        "sampled": len(names),
        "unknown": int((right <= 2 * guessing * samples).sum()),
    }


def _budgeted(ctx: Context, challenger: Side, champion: Side, best: Side) -> dict[str, Any]:
    """The test of rule `proven`, and the margin that holds whatever verdicts have told: which part, which level."""
    settings, past, wanted = (
        ctx.settings,
        holdout_comparisons.all_comparisons(ctx.engine),
        ctx.settings.gate_improvement,
    )
    number, proven = len(past) + 1, settings.gate_rule == "proven"
    share, then = (
        budget.early_share(k, settings.gate_alpha) if proven else budget.even_share(settings.gate_alpha)
        for k in (number, number + 1)
    )
    incumbents = [of for of, _ in _incumbents(champion, best)]
    before = _looked_at(ctx, challenger.holdout)
    relevant = _relevant(ctx, challenger, incumbents)
    possible = parts(before[relevant], past, settings.gate_min_holdout)
    chosen = budget.choose(share, possible)
    level = budget.level(share, chosen)
    on = before >= chosen.after
    differ = float((champion.right != challenger.right)[on].mean())
    lacking = budget.fresh_needed(then, possible, wanted, differ)
    return {
        "number": number,
        "after": chosen.after,
        "samples": chosen.samples,
        "looks_before": chosen.looks,
        "events_before": chosen.events,
        "alpha": settings.gate_alpha,
        "level": level,
        "metric": settings.gate_metric,
        "metric_words": Metric(settings.gate_metric, {}).words,
        "gain": asdict(_gain(ctx, challenger, champion, on)),
        "disagreement": differ,
        "detectable": min(1.0, budget.detectable(level, chosen.samples, differ)),
        "wanted": wanted,
        "fresh_needed": lacking,
        "labels_needed": math.ceil(lacking / settings.holdout_share),
    } | _stated(ctx, challenger, incumbents, on & relevant, level)


def _relevant(ctx: Context, challenger: Side, incumbents: Sequence[Side]) -> Mask:
    """Samples that the metric looks at, of classes that every incumbent knows."""
    counted = _per_sample(ctx, challenger, incumbents[0], np.ones(len(challenger.right), np.bool_)).counted
    relevant: Mask = np.logical_and.reduce([counted, *(_known(challenger, other) for other in incumbents)])
    return relevant


def _stated(ctx: Context, challenger: Side, incumbents: Sequence[Side], on: Mask, level: float) -> dict[str, Any]:
    """The margin by which the challenger may be worse whatever was done with the verdicts, and labels for a smaller.

    The labels are as many as would bring it to the margin that is set, as if the width went with the root of the
    samples and the challenger were no better than the others.
    """
    margin, worst, lacking = ctx.settings.gate_margin, 0.0, 0.0
    for other in incumbents:
        of = _per_sample(ctx, challenger, other, on)
        loss = largest_loss(of, level)
        worst = max(worst, loss)
        if loss > margin and len(of.differences):
            width = loss + float(of.differences.mean())
            lacking = max(lacking, len(of.differences) * ((width / margin) ** 2 - 1))
    return {
        "stated_margin": max(margin, worst),
        "labels_for_margin": math.ceil(lacking / ctx.settings.holdout_share),
    }


def samples_to_exclude(incumbents: Sequence[Mapping[str, Any]], margin: float) -> int:
    """Further holdout samples with which the usual bounds would exclude a loss beyond the margin by an equal model.

    As if their width went with the root of the samples; 0 if they are narrow enough.
    """
    lacking = [0.0]
    for row in incumbents:
        for of in ("metric", "brier"):
            if row[of] is not None:
                lacking.append(row["samples"] * (((row[of] - row[f"{of}_least"]) / margin) ** 2 - 1))
    return math.ceil(max(lacking))


def _looked_at(ctx: Context, holdout: Split) -> NDArray[np.int64]:
    """How many decisions had been made when each sample came, or a near duplicate of it, ``int64[N]``."""
    known = holdout_comparisons.before(ctx.engine, sorted(set(holdout.drop_ids)))
    # A drop that is unknown by now counts as old: it might have been seen.
    before = np.asarray([known.get(drop, 0) for drop in holdout.drop_ids], np.int64)
    _, group = np.unique(grouping.column(ctx, holdout, "group_id").astype(np.str_), return_inverse=True)
    first = np.full(group.max(initial=-1) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, group, before)
    return first[group]


def parts(before: NDArray[np.int64], past: Sequence[HoldoutComparison], least: int) -> list[HoldoutSubset]:
    """All samples, and those that came after each decision that was not a plain rejection, where they are enough.

    Args:
        before: how many decisions had been made when each sample came, ``int64[N]``.
        past: the decisions, the oldest first.
        least: samples without which nothing is decided.
    """
    possible = [HoldoutSubset(0, len(before), _verdicts(past))]
    for look in past:
        if look.event and (fresh := int((before >= look.number).sum())) >= least:
            possible.append(HoldoutSubset(look.number, fresh, _verdicts(past[look.number :])))
    return possible


def _verdicts(of: Sequence[HoldoutComparison]) -> tuple[int, ...]:
    outcomes = [look.outcome for look in of]
    return tuple(outcomes.count(outcome) for outcome in OUTCOMES)


def _gain(ctx: Context, challenger: Side, champion: Side, on: NDArray[np.bool_]) -> metrics.Gain:
    metric, classes = _metric(ctx), challenger.holdout.classes
    was, now = (s.positions[on] for s in (champion, challenger))
    return metrics.gain(metric, challenger.holdout.labels[on], was, now, classes, ctx.settings.seed)


def _per_sample(ctx: Context, challenger: Side, other: Side, among: Mask) -> PerSample:
    """The metric's differences on some of the samples only: macro-F1 and its weights depend on which these are."""
    classes = challenger.holdout.classes
    was, now = (s.positions[among] for s in (other, challenger))
    return metrics.per_sample(_metric(ctx), challenger.holdout.labels[among], was, now, classes)


def _metric(ctx: Context) -> Metric:
    return Metric(ctx.settings.gate_metric, ctx.settings.gate_costs)
