"""Groups of holdout samples: by class, drop, brightness and age, and corrupted copies of a few samples."""

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml.catalog import predictions
from ml.context import Context
from ml.datasets import loader
from ml.datasets.loader import Split
from ml.gate import corruptions, slices
from ml.gate.scores import EvaluatedModel
from ml.gate.slices import Group
from ml.gate.statistics import Right
from ml.training.data import novelty

_TRAFFIC: Final = 1000
"""Minimum number of logged predictions for their class shares to be used."""


def groups(ctx: Context, challenger: EvaluatedModel, champion: EvaluatedModel, dataset: str) -> list[Group]:
    """All groups for comparing the models."""
    holdout, before, after = challenger.holdout, champion.right, challenger.right
    newest = list(dict.fromkeys(reversed(holdout.drop_ids)))[: slices.MOST_DROPS]
    drop_names = [drop if drop in newest else "" for drop in holdout.drop_ids]
    traffic, known = _traffic(ctx, champion), challenger.among(champion.classes)
    compared = [
        *slices.group("class", challenger.truth, before, known.right, traffic),
        *slices.group("brightness", slices.bands(column(ctx, holdout, "brightness")), before, after),
    ]
    # Others have the same answers as above, and with more groups each test would have to be stricter.
    mistaken = np.unique(challenger.truth[known.right != after])
    truth = np.where(np.isin(challenger.truth, mistaken), challenger.truth, "")
    compared += slices.group(slices.BESIDE_NEW, truth, before, after, traffic)
    if len(newest) > 1:
        compared += slices.group("drop", drop_names, before, after)
    if (champion_dataset := ctx.registry.tags(champion.version).get("dataset_version")) is not None:
        is_new = novelty.is_new(ctx, holdout, dataset, champion_dataset)
        if is_new.any() and not is_new.all():
            compared += slices.group("age", np.where(is_new, "new", "old"), before, after)
    return compared + _corruption_groups(ctx, challenger, champion)


def column(ctx: Context, holdout: Split, name: str) -> NDArray[Any]:
    """A column of the segments' indexes, in the order of the split."""
    tables = [loader.columns(ctx, s, ("sha256", "split", name)) for s in dict.fromkeys(holdout.segment_ids)]
    table = pa.concat_tables(tables).filter(pc.field("split") == "holdout")
    by_digest = dict(zip(table["sha256"].to_pylist(), table[name].to_pylist(), strict=True))
    return np.asarray([by_digest[digest] for digest in holdout.sha256])


def _traffic(ctx: Context, champion: EvaluatedModel) -> dict[str, float]:
    """Class shares, by current names, of the champion's predictions; empty if there are too few."""
    answers = predictions.by_label(ctx.engine, champion.version)
    if (total := sum(answers.values())) < _TRAFFIC:
        return {}
    shares: dict[str, float] = {}
    for label, name in zip(champion.model.info.labels, champion.names.tolist(), strict=True):
        shares[name] = shares.get(name, 0.0) + answers.get(label, 0) / total
    return shares


def _corruption_groups(ctx: Context, challenger: EvaluatedModel, champion: EvaluatedModel) -> list[Group]:
    """Both models on the same few corrupted holdout images, at each model's input size."""
    n, settings = len(challenger.right), ctx.settings
    count = min(settings.gate_corrupted, n)
    if not count:
        return []
    chosen = np.sort(np.random.default_rng(settings.seed).choice(n, count, replace=False))
    has_veto = settings.gate_corruptions == "veto"
    return [
        Group("corruption", name, before, after, 1.0, has_veto)
        for (name, before), (_, after) in zip(
            _corrupted_answers(champion, chosen, settings.seed),
            _corrupted_answers(challenger, chosen, settings.seed),
            strict=True,
        )
    ]


def _corrupted_answers(side: EvaluatedModel, chosen: NDArray[np.int64], seed: int) -> list[tuple[str, Right]]:
    truth = side.truth[chosen]
    return [
        (name, side.names[side.model.predict(images).argmax(1)] == truth)
        for name, images in corruptions.corrupted(side.holdout.images[chosen], seed)
    ]
