"""Which drops made a challenger worse: those whose labels contradict the holdout where both look alike.

For each holdout sample, the nearest training samples in the challenger's own features are found. Of a clean drop about
as many of these bear another label than the holdout sample as of the other drops at the same place; of a drop with
wrong labels more do. The excess over its samples, in standard deviations, is a drop's score. Comparing at the same
place makes it independent of how large a drop is, and of which classes are hard. Any drop can be named, not only the
newest: what an old one did to every challenger since is found too.

Chosen by measurement against influence on the wrong answers alone, which misses small drops and noise, and against
features of the champion, which find no more (docs/decisions/0037). Cost: features of at most `MOST_TRAINING` training
images, and a matrix product with at most `MOST_HOLDOUT` holdout samples.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ml.catalog import drops as drops_catalog
from ml.catalog.classes import class_map
from ml.catalog.engine import transaction
from ml.context import Context
from ml.datasets import labels, loader, versions
from ml.datasets.loader import Split
from ml.gate.scores import EvaluatedModel

MOST_TRAINING: Final = 8000
MOST_HOLDOUT: Final = 1000
MOST_DROPS: Final = 50
"""The newest drops that can be named; older ones count as one, which is only compared with."""
STANDS_OUT: Final = 3.3
"""Least score of a drop that is named: see docs/decisions/0037."""
_NEIGHBOURS: Final = 30
_NAMED: Final = 3
_IMAGES: Final = 20
_BATCH: Final = 256

Features = NDArray[np.float32]
Labels = NDArray[np.int64]


def is_needed(figures: Mapping[str, Any]) -> bool:
    """Whether the challenger is or seems worse than the champion, over all or in a group."""
    worse = any(row["finding"] in ("worse", "unclear") and row["kind"] != "corruption" for row in figures["groups"])
    return worse or figures["difference"] < 0


def find(ctx: Context, challenger: EvaluatedModel, dataset: str) -> dict[str, Any] | None:
    """The drops that stand out, the most contradicting first, with their most contradicting images; JSON.

    None if the challenger's bundle gives no features, or there is nothing to compare.

    Args:
        challenger: on the labels by which it was judged.
    """
    info = challenger.model.info
    train = loader.load(ctx, dataset, "train", info.image_size, info.channels)
    sources = _sources(ctx, train, dataset)
    newest = list(dict.fromkeys(reversed(sources)))[:MOST_DROPS]
    number = {drop: i for i, drop in enumerate(newest)}
    drop_of = np.asarray([number.get(drop, len(newest)) for drop in sources], np.int64)
    generator = np.random.default_rng(ctx.settings.seed)
    chosen = spread_over_drops(drop_of, MOST_TRAINING, generator)
    count = len(challenger.right)
    judges = np.sort(generator.permutation(count)[:MOST_HOLDOUT])
    if len(newest) < 2 or not count:
        return None
    near = _features(challenger, train, chosen)
    holdout_features = _features(challenger, challenger.holdout, judges)
    if near is None or holdout_features is None:
        return None
    neighbours = nearest(holdout_features, near, _NEIGHBOURS)
    truth, given = challenger.holdout.labels[judges], train.labels[chosen]
    own = drop_of[chosen]
    excess = excess_of(neighbours, given, own, truth)
    scores = score_drops(excess, own, len(newest) + 1)
    order = sorted(range(len(newest)), key=lambda d: -scores[d])
    with transaction(ctx.engine) as connection:
        names = drops_catalog.names(connection, newest)
    rows = []
    for d in [d for d in order if scores[d] >= STANDS_OUT][:_NAMED]:
        suspects = [i for i in np.argsort(-excess, kind="stable") if own[i] == d and excess[i] > 0][:_IMAGES]
        contradicting, expected = shares(neighbours, given, own, truth, d)
        rows.append(
            {
                "drop": newest[d],
                "name": names[newest[d]].name if newest[d] in names else newest[d],
                "score": round(scores[d], 2),
                "contradicting": round(contradicting, 4),
                "expected": round(expected, 4),
                "images": [{"sha256": train.sha256[chosen[i]], "label": train.classes[given[i]]} for i in suspects],
            }
        )
    return {
        "drops": rows,
        "compared": len(newest),
        "training_samples": len(chosen),
        "holdout_samples": len(judges),
        "highest": round(scores[order[0]], 2),
    }


def sentence(figures: Mapping[str, Any]) -> str:
    """What was found and what to do, for the reason of a decision."""
    if not figures["drops"]:
        return "no drop stands out"
    row = figures["drops"][0]
    others = [other["name"] for other in figures["drops"][1:]]
    more = f" (then {', '.join(others)})" if others else ""
    return (
        f"drop {row['name']} stands out{more}: where its images look like holdout images, {row['contradicting']:.0%} "
        f"bear another label than those, of other drops {row['expected']:.0%}; "
        f"`evergreen drops revert {row['name']} --reason …` takes it out"
    )


def nearest(queries: Features, among: Features, count: int) -> NDArray[np.int64]:
    """Positions of the nearest samples by the cosine of the angle, ``int64[N, K]``; ties by position.

    Args:
        asked: ``float32[N, D]``.
        among: ``float32[M, D]``.
    """
    others = _unit(among)
    count = min(count, len(among))
    parts = []
    for start in range(0, len(queries), _BATCH):
        similarity = (_unit(queries[start : start + _BATCH]) @ others.T).round(5)
        parts.append(np.argsort(-similarity, axis=1, kind="stable")[:, :count])
    return np.concatenate(parts).astype(np.int64)


def score_drops(excess: NDArray[np.float64], drop_of: Labels, drops: int) -> list[float]:
    """The excess of each drop in standard deviations.

    The samples of a drop are what varies, not the pairs: one sample is near many holdout samples. Their variance is
    taken over all drops, so that wrong labels in one do not hide behind their own spread.

    Args:
        excess: of each training sample, see `excess_of`, ``float64[M]``.
        drop_of: their drops, 0 to `drops` - 1, ``int64[M]``.
    """
    total = np.bincount(drop_of, excess, drops)
    variance = np.bincount(drop_of, minlength=drops) * float((excess**2).mean())
    scores: list[float] = (total / np.sqrt(np.maximum(1e-9, variance))).tolist()
    return scores


def excess_of(neighbours: NDArray[np.int64], given: Labels, drop_of: Labels, truth: Labels) -> NDArray[np.float64]:
    """How much more often than expected each training sample contradicts the holdout samples it is near.

    Expected at a holdout sample is the share of contradicting labels among its neighbours of other drops; a place
    without other drops says nothing.

    Args:
        neighbours: positions of the nearest training samples of each holdout sample, ``int64[N, K]``.
        given: labels of the training samples, ``int64[M]``.
        drop_of: their drops, ``int64[M]``.
        truth: labels of the holdout samples, ``int64[N]``.
    """
    contradicts = given[neighbours] != truth[:, None]
    own, harm_of_own = _of_own_drop(drop_of[neighbours], contradicts)
    others = neighbours.shape[1] - own
    rate = (contradicts.sum(1)[:, None] - harm_of_own) / np.maximum(1, others)
    surplus = np.where(others > 0, contradicts - rate, 0.0)
    return np.asarray(np.bincount(neighbours.ravel(), surplus.ravel(), len(given)), np.float64)


def _of_own_drop(drop: Labels, contradicts: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each neighbour, how many of its row are of the same drop, and how many of these contradict; ``[N, K]``."""
    drops = int(drop.max(initial=0)) + 1
    cells = np.arange(len(drop))[:, None] * drops + drop
    counts = np.bincount(cells.ravel(), minlength=len(drop) * drops)
    harm = np.bincount(cells.ravel(), contradicts.ravel(), len(drop) * drops)
    return counts[cells], harm[cells]


def shares(
    neighbours: NDArray[np.int64], given: Labels, drop_of: Labels, truth: Labels, drop: int
) -> tuple[float, float]:
    """Share of contradicting labels among a drop's samples near holdout samples, and what others' make expected."""
    near = drop_of[neighbours] == drop
    contradicts = (given[neighbours] != truth[:, None])[near]
    excess = excess_of(neighbours, given, drop_of, truth)[drop_of == drop].sum()
    pairs = max(1, len(contradicts))
    return float(contradicts.sum()) / pairs, float(contradicts.sum() - excess) / pairs


def spread_over_drops(drop_of: Labels, most: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """At most `most` random positions, as evenly over the drops as their sizes allow, ascending."""
    if len(drop_of) <= most:
        return np.arange(len(drop_of))
    members = [np.flatnonzero(drop_of == d) for d in np.unique(drop_of)]
    members.sort(key=len)
    chosen, left = [], most
    for i, own in enumerate(members):
        share = min(len(own), left // (len(members) - i))
        chosen.append(generator.permutation(own)[:share])
        left -= share
    return np.sort(np.concatenate(chosen))


def _sources(ctx: Context, train: Split, dataset: str) -> list[str]:
    """The drop that each training sample has its label from: not the one that brought it, if another changed it."""
    sources = list(train.drop_ids)
    relabelled = versions.manifest(ctx, dataset).relabels.keys()
    changed = {digest: i for i, digest in enumerate(train.sha256) if digest in relabelled} if relabelled else {}
    with transaction(ctx.engine) as connection:
        mapping, annotations = class_map(connection), labels.annotations_of(connection, sorted(changed))
    for digest, i in changed.items():
        label = train.classes[train.labels[i]]
        given = [a for a in annotations.get(digest, ()) if mapping.get(a.label, a.label) == label]
        if given:
            sources[i] = given[-1].drop_id or train.drop_ids[i]
    return sources


def _features(side: EvaluatedModel, split: Split, positions: NDArray[np.int64]) -> Features | None:
    parts = []
    for start in range(0, len(positions), _BATCH):
        images = np.ascontiguousarray(split.images[positions[start : start + _BATCH]])
        _, features = side.model.runtime.outputs(images)
        if features is None:
            return None
        parts.append(features)
    return np.concatenate(parts) if parts else None


def _unit(features: Features) -> Features:
    unit: Features = features / np.maximum(1e-9, np.linalg.norm(features, axis=1, keepdims=True))
    return unit
