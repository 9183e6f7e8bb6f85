"""Compares challenger and champion on the same holdout: figures for policy, decision record and report."""

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
from ml.gate.lead import Lead, largest_loss, lead, succession_risk
from ml.gate.metrics import Metric, PerSample
from ml.gate.scores import EvaluatedModel
from ml.gate.slices import Tolerance
from ml.models import bundle, calibration, model

Mask = NDArray[np.bool_]
_LATENCY_ROUNDS: Final = 20


def challenger_figures(side: EvaluatedModel, served: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Figures of the challenger alone; `served`: its `serving_cost`, if that was measured before."""
    n, right = len(side.right), int(side.right.sum())
    return {
        "holdout": n,
        "holdout_samples": side.samples,
        "challenger_accuracy": right / n if n else None,
        "challenger_interval": statistics.wilson(right, n),
        "challenger_brier": float(side.answers.brier.mean()) if n else None,
        "challenger_calibration": statistics.reliability(side.answers.probability, side.right),
        "challenger_calibration_error": calibration.error(side.answers.probability, side.right, statistics.BINS),
        "served": served or serving_cost(side),
    }


def class_rows(side: EvaluatedModel) -> list[dict[str, Any]]:
    """A row per class, if there is no champion."""
    return [
        {
            "kind": "class",
            "name": str(name),
            "samples": int((side.truth == name).sum()),
            "challenger": round(float(side.right[side.truth == name].mean()), 4),
        }
        for name in np.unique(side.truth)
    ]


def serving_cost(side: EvaluatedModel) -> dict[str, float]:
    """Bundle bytes and milliseconds per image on one core, for the variant that the service runs."""
    info, variant = side.model.info, side.model.variant
    single = model.load(side.folder, threads=1, variant=variant, runtime=side.model.runtime.name)
    image = np.zeros((1, info.image_size, info.image_size, info.channels), np.uint8)
    seconds = []
    for _ in range(_LATENCY_ROUNDS):
        start = time.perf_counter()
        single.predict(image)
        seconds.append(time.perf_counter() - start)
    size = sum((side.folder / name).stat().st_size for name in bundle.FILES[variant])
    return {"bytes": size, "milliseconds": round(1000 * float(np.median(seconds)), 3)}


def paired_figures(
    ctx: Context, challenger: EvaluatedModel, champion: EvaluatedModel, best: EvaluatedModel, dataset: str
) -> dict[str, Any]:
    """The paired figures; `ml.gate.policy` decides on them.

    Args:
        best: the best champion so far; may be the champion.
    """
    settings = ctx.settings
    comparison = statistics.compare(champion.right, challenger.right, settings.seed)
    n, old_right = len(champion.right), int(champion.right.sum())
    before, after = ((s.answers.probability, s.right) for s in (champion, challenger))
    rise, rise_least = statistics.calibration_rise(before, after, settings.seed)
    classes = len(challenger.holdout.classes)
    tolerance = Tolerance(settings.gate_margin, settings.gate_group_margin, classes, settings.gate_alpha)
    compared_groups = slices.evaluate_groups(grouping.groups(ctx, challenger, champion, dataset), tolerance)
    return asdict(comparison) | {
        "champion_interval": statistics.wilson(old_right, n),
        "champion_brier": float(champion.answers.brier.mean()),
        "champion_calibration": statistics.reliability(*before),
        "champion_calibration_error": calibration.error(*before, statistics.BINS),
        "calibration_rise": rise,
        "calibration_rise_least": rise_least,
        "groups": [asdict(group) for group in compared_groups],
        "new_classes": sorted(challenger.classes - champion.classes),
        "new_class_answers": _new_classes(challenger, champion),
        "lost_classes": sorted(champion.classes - challenger.classes),
        "lead": asdict(_lead(ctx, challenger, champion, np.ones(n, np.bool_))),
        "incumbents": [_incumbent(ctx, challenger, other, role) for other, role in _incumbents(champion, best)],
        "best_so_far": _best(ctx, champion, best).version,
        "budget": _budget_figures(ctx, challenger, champion, best),
    }


def _incumbents(champion: EvaluatedModel, best: EvaluatedModel) -> list[tuple[EvaluatedModel, str]]:
    incumbents = [(champion, "champion")]
    return incumbents if best.version == champion.version else [*incumbents, (best, "best so far")]


def _incumbent(ctx: Context, challenger: EvaluatedModel, other: EvaluatedModel, role: str) -> dict[str, Any]:
    """The lead over a model on the classes that it knows, by answers among these; of others it has none to lose."""
    known = _known(challenger, other)
    return {"version": other.version, "role": role} | asdict(_lead(ctx, challenger.among(other.classes), other, known))


def _known(challenger: EvaluatedModel, other: EvaluatedModel) -> Mask:
    return np.isin(challenger.truth, sorted(other.classes))


def _lead(ctx: Context, challenger: EvaluatedModel, other: EvaluatedModel, among: Mask) -> Lead:
    brier = (other.answers.brier - challenger.answers.brier)[among]
    return lead(_per_sample(ctx, challenger, other, among), brier, ctx.settings.gate_risk)


def _best(ctx: Context, champion: EvaluatedModel, best: EvaluatedModel) -> EvaluatedModel:
    """The best so far, until the champion is significantly better: otherwise small losses could add up."""
    if best.version == champion.version:
        return champion
    per_sample = _per_sample(ctx, champion.among(best.classes), best, _known(champion, best))
    return champion if lead(per_sample, None, succession_risk(ctx.settings.gate_risk)).metric_least > 0 else best


def _new_classes(challenger: EvaluatedModel, champion: EvaluatedModel) -> dict[str, float]:
    """Results of the challenger on classes that the champion does not know.

    Returns:
        Number of `samples`, and how many are `right`; `sampled`: classes with samples; `unknown`: those of them with
        at most twice the accuracy of guessing; `known`: samples of classes that the champion knows, and how many of
        them are `mistaken` for a new class.
    """
    new_names = sorted(challenger.classes - champion.classes)
    new, known = np.isin(challenger.truth, new_names), np.isin(challenger.truth, sorted(champion.classes))
    guessing = 1 / max(1, len(challenger.classes))
    names, position = np.unique(challenger.truth[new], return_inverse=True)
    samples = np.bincount(position, minlength=len(names))
    right = np.bincount(position, challenger.right[new], len(names))
    return {
        "samples": int(new.sum()),
        "right": int(challenger.right[new].sum()),
        "sampled": len(names),
        "unknown": int((right <= 2 * guessing * samples).sum()),
        "known": int(known.sum()),
        "mistaken": int((known & np.isin(challenger.answers.labels, new_names)).sum()),
    }


def _budget_figures(
    ctx: Context, challenger: EvaluatedModel, champion: EvaluatedModel, best: EvaluatedModel
) -> dict[str, Any]:
    """The test of rule `proven` and the margin that holds whatever verdicts revealed: which subset, which level."""
    settings, improvement = ctx.settings, ctx.settings.gate_improvement
    past = holdout_comparisons.all_comparisons(ctx.engine)
    number, is_proven_rule = len(past) + 1, settings.gate_rule == "proven"
    share, next_share = (
        budget.early_share(k, settings.gate_alpha) if is_proven_rule else budget.even_share(settings.gate_alpha)
        for k in (number, number + 1)
    )
    incumbents = [side for side, _ in _incumbents(champion, best)]
    decisions_before = _decisions_before(ctx, challenger.holdout)
    relevant = _relevant(ctx, challenger, incumbents)
    subsets = holdout_subsets(decisions_before[relevant], past, settings.gate_min_holdout)
    chosen = budget.choose(share, subsets)
    level = budget.level(share, chosen)
    mask = decisions_before >= chosen.after
    disagreement = float((champion.right != challenger.right)[mask].mean())
    shortfall = budget.fresh_needed(next_share, subsets, improvement, disagreement)
    return {
        "number": number,
        "after": chosen.after,
        "samples": chosen.samples,
        "looks_before": chosen.looks,
        "events_before": chosen.events,
        "alpha": settings.gate_alpha,
        "level": level,
        "metric": settings.gate_metric,
        "metric_words": Metric(settings.gate_metric, {}).description,
        "gain": asdict(_gain(ctx, challenger, champion, mask)),
        "disagreement": disagreement,
        "detectable": min(1.0, budget.detectable(level, chosen.samples, disagreement)),
        "wanted": improvement,
        "fresh_needed": shortfall,
        "labels_needed": math.ceil(shortfall / settings.holdout_share),
    } | _stated_margin(ctx, challenger, incumbents, mask & relevant, level)


def _relevant(ctx: Context, challenger: EvaluatedModel, incumbents: Sequence[EvaluatedModel]) -> Mask:
    """Samples that the metric counts, of classes that every incumbent knows."""
    counted = _per_sample(ctx, challenger, incumbents[0], np.ones(len(challenger.right), np.bool_)).counted
    relevant: Mask = np.logical_and.reduce([counted, *(_known(challenger, other) for other in incumbents)])
    return relevant


def _stated_margin(
    ctx: Context, challenger: EvaluatedModel, incumbents: Sequence[EvaluatedModel], mask: Mask, level: float
) -> dict[str, Any]:
    """The largest loss that is not excluded, whatever use was made of the verdicts, and labels to reduce it.

    The labels would reduce it to the configured margin, if the width shrinks with the root of the number of samples
    and the challenger is no better than the others.
    """
    margin, worst, lacking = ctx.settings.gate_margin, 0.0, 0.0
    for other in incumbents:
        gains = _per_sample(ctx, challenger.among(other.classes), other, mask)
        loss = largest_loss(gains, level)
        worst = max(worst, loss)
        if loss > margin and len(gains.differences):
            width = loss + float(gains.differences.mean())
            lacking = max(lacking, len(gains.differences) * ((width / margin) ** 2 - 1))
    return {
        "stated_margin": max(margin, worst),
        "labels_for_margin": math.ceil(lacking / ctx.settings.holdout_share),
    }


def samples_to_exclude(incumbents: Sequence[Mapping[str, Any]], margin: float) -> int:
    """Further holdout samples for the usual bounds to exclude a loss beyond the margin of an equally good model.

    Assumes that their width shrinks with the root of the number of samples; 0 if they are narrow enough.
    """
    lacking = [0.0]
    for row in incumbents:
        for kind in ("metric", "brier"):
            if row[kind] is not None:
                lacking.append(row["samples"] * (((row[kind] - row[f"{kind}_least"]) / margin) ** 2 - 1))
    return math.ceil(max(lacking))


def _decisions_before(ctx: Context, holdout: Split) -> NDArray[np.int64]:
    """Number of decisions before each sample arrived, ``int64[N]``; of near copies the first one counts."""
    known_decisions = holdout_comparisons.before(ctx.engine, sorted(set(holdout.drop_ids)))
    # An unknown drop counts as old: its samples may have been used before.
    return np.asarray([known_decisions.get(drop, 0) for drop in holdout.drop_ids], np.int64)


def holdout_subsets(
    decisions_before: NDArray[np.int64], past: Sequence[HoldoutComparison], min_samples: int
) -> list[HoldoutSubset]:
    """All samples, and the subsets since each event (no plain rejection) that have at least `min_samples`.

    Args:
        decisions_before: number of decisions before each sample arrived, ``int64[N]``.
        past: the decisions, the oldest first.
        min_samples: smallest subset to decide on.
    """
    subsets = [HoldoutSubset(0, len(decisions_before), _verdicts(past))]
    for comparison in past:
        if comparison.event and (fresh := int((decisions_before >= comparison.number).sum())) >= min_samples:
            subsets.append(HoldoutSubset(comparison.number, fresh, _verdicts(past[comparison.number :])))
    return subsets


def _verdicts(comparisons: Sequence[HoldoutComparison]) -> tuple[int, ...]:
    outcomes = [comparison.outcome for comparison in comparisons]
    return tuple(outcomes.count(outcome) for outcome in OUTCOMES)


def _gain(ctx: Context, challenger: EvaluatedModel, champion: EvaluatedModel, mask: NDArray[np.bool_]) -> metrics.Gain:
    metric, classes = _metric(ctx), challenger.holdout.classes
    was, now = (s.positions[mask] for s in (champion, challenger))
    return metrics.gain(metric, challenger.holdout.labels[mask], was, now, classes, ctx.settings.seed)


def _per_sample(ctx: Context, challenger: EvaluatedModel, other: EvaluatedModel, among: Mask) -> PerSample:
    """The metric's differences on some of the samples; macro-F1 and its weights depend on the selection."""
    classes = challenger.holdout.classes
    was, now = (s.positions[among] for s in (other, challenger))
    return metrics.per_sample(_metric(ctx), challenger.holdout.labels[among], was, now, classes)


def _metric(ctx: Context) -> Metric:
    return Metric(ctx.settings.gate_metric, ctx.settings.gate_costs)
