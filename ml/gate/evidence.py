"""Everything that challenger and champion show on the same holdout, as figures for policy, ledger and report."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml import bundle, calibration, model
from ml.catalog import looks
from ml.context import Context
from ml.datasets import loader, versions
from ml.datasets.loader import Split
from ml.gate import budget, corruptions, metrics, scores, slices, statistics
from ml.gate.budget import Part
from ml.gate.metrics import Metric
from ml.gate.scores import Answers
from ml.gate.slices import Group
from ml.gate.statistics import Right
from ml.model import Model
from ml.training import novelty

_LATENCY_ROUNDS: Final = 20


@dataclass(frozen=True)
class Side:
    """A model of a bundle's folder, and its answers: `right` per sample of `holdout`, at the model's own input size."""

    version: int
    model: Model
    folder: Path
    holdout: Split
    answers: Answers
    right: Right


def side(ctx: Context, version: int, loaded: tuple[Model, Path], dataset: str) -> Side:
    """Score a model, as `scores.load_model` gives it."""
    judge, folder = loaded
    holdout, answers = scores.score(ctx, version, judge, dataset)
    return Side(version, judge, folder, holdout, answers, scores.right(holdout, answers))


def alone(of: Side) -> dict[str, Any]:
    """What is told of a challenger with or without a champion."""
    n, right = len(of.right), int(of.right.sum())
    return {
        "holdout": n,
        "challenger_accuracy": right / n if n else None,
        "challenger_interval": statistics.wilson(right, n),
        "challenger_calibration": statistics.reliability(of.answers.probability, of.right),
        "challenger_calibration_error": calibration.error(of.answers.probability, of.right, statistics.BINS),
        "served": served(of),
    }


def classes_alone(of: Side) -> list[dict[str, Any]]:
    """A row a class, where there is no champion."""
    names = np.asarray(of.holdout.classes, np.str_)[of.holdout.labels]
    return [
        {
            "kind": "class",
            "name": str(name),
            "samples": int((names == name).sum()),
            "challenger": round(float(of.right[names == name].mean()), 4),
        }
        for name in np.unique(names)
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


def against(ctx: Context, challenger: Side, champion: Side, dataset: str) -> dict[str, Any]:
    """The paired figures; see `ml.gate.policy` for what follows from them."""
    seed = ctx.settings.seed
    comparison = statistics.compare(champion.right, challenger.right, seed)
    groups = _groups(ctx, challenger, champion, dataset)
    n, old_right = len(champion.right), int(champion.right.sum())
    before, after = ((s.answers.probability, s.right) for s in (champion, challenger))
    rise, surely = statistics.calibration_rise(before, after, seed)
    return asdict(comparison) | {
        "champion_interval": statistics.wilson(old_right, n),
        "champion_calibration": statistics.reliability(*before),
        "champion_calibration_error": calibration.error(*before, statistics.BINS),
        "calibration_rise": rise,
        "calibration_rise_least": surely,
        "groups": slices.judge(groups, ctx.settings.gate_margin, ctx.settings.gate_alpha),
        "new_classes": sorted(set(challenger.model.info.labels) - _known(ctx, champion, dataset)),
        "lost_classes": sorted(_known(ctx, champion, dataset) - set(challenger.model.info.labels)),
        "budget": _budgeted(ctx, challenger, champion),
    }


def _budgeted(ctx: Context, challenger: Side, champion: Side) -> dict[str, Any]:
    """The test that decides: on which part, at which level, and how much improvement could be seen."""
    alpha, past, wanted = ctx.settings.gate_alpha, looks.all_looks(ctx.engine), ctx.settings.gate_improvement
    number = len(past) + 1
    before = _looked_at(ctx, challenger.holdout)
    possible = parts(before, past, ctx.settings.gate_min_holdout)
    chosen = budget.choose(number, possible, alpha)
    level = budget.level(number, chosen, alpha)
    on = before >= chosen.after
    differ = float((champion.right != challenger.right)[on].mean())
    lacking = budget.fresh_needed(number, possible, alpha, wanted, differ)
    return {
        "number": number,
        "after": chosen.after,
        "samples": chosen.samples,
        "looks_before": chosen.looks,
        "events_before": chosen.events,
        "alpha": alpha,
        "level": level,
        "left": alpha - math.fsum(look.level for look in past[-(budget.WINDOW - 1) :]) - level,
        "metric": ctx.settings.gate_metric,
        "metric_words": Metric(ctx.settings.gate_metric, {}).words,
        "gain": asdict(_gain(ctx, challenger, champion, on)),
        "disagreement": differ,
        "detectable": budget.detectable(level, chosen.samples, differ),
        "wanted": wanted,
        "fresh_needed": lacking,
        "labels_needed": math.ceil(lacking / ctx.settings.holdout_share),
    }


def _looked_at(ctx: Context, holdout: Split) -> NDArray[np.int64]:
    """How many decisions had been made when each sample came, or a near duplicate of it, ``int64[N]``."""
    known = looks.before(ctx.engine, sorted(set(holdout.drop_ids)))
    # A drop that is unknown by now counts as old: it might have been seen.
    before = np.asarray([known.get(drop, 0) for drop in holdout.drop_ids], np.int64)
    _, group = np.unique(_column(ctx, holdout, "group_id").astype(np.str_), return_inverse=True)
    first = np.full(group.max(initial=-1) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, group, before)
    return first[group]


def parts(before: NDArray[np.int64], past: Sequence[looks.Look], least: int) -> list[Part]:
    """All samples, and those that came after each decision that was not a plain rejection, where they are enough.

    Args:
        before: how many decisions had been made when each sample came, ``int64[N]``.
        past: the decisions, the oldest first.
        least: samples without which nothing is decided.
    """
    events = [look for look in past if look.event]
    found = [Part(0, 0, len(before), len(past), len(events))]
    for begun, look in enumerate(events, 1):
        fresh = int((before >= look.number).sum())
        if fresh >= least:
            found.append(Part(look.number, begun, fresh, len(past) - look.number, len(events) - begun))
    return found


def _gain(ctx: Context, challenger: Side, champion: Side, on: NDArray[np.bool_]) -> metrics.Gain:
    classes = challenger.holdout.classes
    position = {name: i for i, name in enumerate(classes)}
    was, now = (
        np.asarray([position.get(str(label), -1) for label in s.answers.labels[on]], np.int64)
        for s in (champion, challenger)
    )
    metric = Metric(ctx.settings.gate_metric, ctx.settings.gate_costs)
    return metrics.gain(metric, challenger.holdout.labels[on], was, now, classes, ctx.settings.seed)


def _known(ctx: Context, of: Side, dataset: str) -> set[str]:
    """The model's classes by the names they have now, without those that are none any more."""
    manifest = versions.manifest(ctx, dataset)
    return {manifest.class_map.get(label, label) for label in of.model.info.labels} & set(manifest.classes)


def _groups(ctx: Context, challenger: Side, champion: Side, dataset: str) -> list[Group]:
    holdout, before, after = challenger.holdout, champion.right, challenger.right
    names = np.asarray(holdout.classes, np.str_)[holdout.labels]
    newest = list(dict.fromkeys(reversed(holdout.drop_ids)))[: slices.MOST_DROPS]
    drop_names = [drop if drop in newest else "" for drop in holdout.drop_ids]
    found = [
        *slices.group("class", names, before, after),
        *slices.group("brightness", slices.bands(_column(ctx, holdout, "brightness")), before, after),
    ]
    if len(newest) > 1:
        found += slices.group("drop", drop_names, before, after)
    if (known := ctx.registry.tags(champion.version).get("dataset_version")) is not None:
        new = novelty.is_new(ctx, holdout, dataset, known)
        if new.any() and not new.all():
            found += slices.group("age", np.where(new, "new", "old"), before, after)
    return found + _corrupted(ctx, challenger, champion)


def _column(ctx: Context, holdout: Split, name: str) -> NDArray[Any]:
    """A column of the segments' indexes, in the order of the split."""
    tables = [loader.columns(ctx, s, ("sha256", "split", name)) for s in dict.fromkeys(holdout.segment_ids)]
    every = pa.concat_tables(tables).filter(pc.field("split") == "holdout")
    known = dict(zip(every["sha256"].to_pylist(), every[name].to_pylist(), strict=True))
    return np.asarray([known[digest] for digest in holdout.sha256])


def _corrupted(ctx: Context, challenger: Side, champion: Side) -> list[Group]:
    """Both models on the same few holdout images, corrupted at each model's own input size."""
    n = len(challenger.right)
    count = min(ctx.settings.gate_corrupted, n)
    if not count:
        return []
    seed = ctx.settings.seed
    chosen = np.sort(np.random.default_rng(seed).choice(n, count, replace=False))
    return [
        Group("corruption", name, before, after)
        for (name, before), (_, after) in zip(
            _answered(champion, chosen, seed), _answered(challenger, chosen, seed), strict=True
        )
    ]


def _answered(of: Side, chosen: NDArray[np.int64], seed: int) -> list[tuple[str, Right]]:
    known = np.asarray(of.model.info.labels, np.str_)
    truth = np.asarray(of.holdout.classes, np.str_)[of.holdout.labels[chosen]]
    return [
        (name, known[of.model.predict(images).argmax(1)] == truth)
        for name, images in corruptions.corrupted(of.holdout.images[chosen], seed)
    ]
