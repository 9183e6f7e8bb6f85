"""A bounded choice of stored samples, with the labels that stand, to compare a drop with."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow.compute as pc

from ml.context import Context
from ml.datasets import loader, segments, versions
from ml.datasets.versions import Manifest
from ml.label_checks.feature_cache import FeatureCache
from ml.label_checks.features import Floats, decode, describe
from ml.label_checks.judge import MOST_STORED
from ml.storage import tar_members

_MOST_SEGMENTS: Final = 12
_NEWEST: Final = 6
_COLUMNS: Final = ("sha256", "label", "split", "drop_id", "offset", "size")
_MOST_OF_CLASS: Final = 500
_MOST_OF_SEGMENT: Final = 3000
_OTHERS: Final = 4  # a class that the drop lacks has one sample where one of the drop's has so many


@dataclass(frozen=True, eq=False)
class StoredSamples:
    """Chosen samples in an order that does not depend on their labels.

    Attributes:
        features: ``float32[N, D]``.
        by_drop: labels of samples of each drop that has enough of them among the segments read.
    """

    features: Floats
    labels: tuple[str, ...]
    by_drop: Mapping[str, Sequence[str]]


def read(ctx: Context, cache: FeatureCache, labels: Set[str], shape: int) -> StoredSamples:
    """Choose samples of the newest version for training and validation, the classes of a drop first.

    At most 12 segments are looked at: the newest, and others spread over the version; so the cost does not grow with
    the store. The choice depends on the version and on `labels` alone.

    Args:
        cache: features that are known.
        labels: of the drop.
        shape: the number of features.

    Raises:
        NotFoundError: a segment is missing.
        IntegrityError: a segment is damaged.
        UnavailableError: a server does not answer.
    """
    version = versions.latest(ctx)
    if version is None:
        return StoredSamples(np.zeros((0, shape), np.float32), (), {})
    manifest = versions.manifest(ctx, version.id)
    rows = [row for segment in _segments(manifest) for row in _rows(ctx, manifest, segment)]
    chosen = _choose(rows, labels)
    hashes = [row["sha256"] for row in chosen]

    def describe_chosen(positions: list[int]) -> Floats:
        return describe(decode(ctx, _images(ctx, [chosen[i] for i in positions])))

    features = cache.described(hashes, describe_chosen) if chosen else np.zeros((0, shape), np.float32)
    return StoredSamples(features, tuple(row["label"] for row in chosen), _by_drop(rows))


def _segments(manifest: Manifest) -> list[str]:
    every = manifest.segments
    if len(every) <= _MOST_SEGMENTS:
        return list(every)
    spread = np.linspace(0, len(every) - _NEWEST - 1, _MOST_SEGMENTS - _NEWEST).astype(int)
    return [*(every[i] for i in spread), *every[-_NEWEST:]]


def _rows(ctx: Context, manifest: Manifest, segment: str) -> list[dict[str, Any]]:
    """Rows of a segment, spread evenly within each class, at most `_MOST_OF_CLASS` of one."""
    table = loader.columns(ctx, segment, _COLUMNS)
    table = table.filter(pc.not_equal(table["split"], "holdout"))
    classes = pc.dictionary_encode(table["label"]).combine_chunks()
    class_ids = classes.indices.to_numpy() if len(table) else np.zeros(0, np.int64)
    counts = np.bincount(class_ids)
    order = np.argsort(class_ids, kind="stable")
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    steps = -(-counts // min(_MOST_OF_CLASS, max(3, _MOST_OF_SEGMENT // max(1, len(counts)))))
    spread = table.take(np.flatnonzero(ranks % np.maximum(steps, 1)[class_ids] == 0))
    removed = set(manifest.removals)
    return [
        row | {"segment": segment, "label": manifest.label_of(row["sha256"], row["label"])}
        for row in spread.to_pylist()
        if row["sha256"] not in removed
    ]


def _choose(rows: Sequence[dict[str, Any]], labels: Set[str]) -> list[dict[str, Any]]:
    """The first of each class by hash in turns, those of other classes less often."""
    ranks: dict[str, int] = {}
    ordered = sorted(rows, key=lambda row: str(row["sha256"]))
    ranked = []
    for row in ordered:
        rank = ranks[row["label"]] = ranks.get(row["label"], -1) + 1
        ranked.append((rank if row["label"] in labels else rank * _OTHERS, row["sha256"], row))
    chosen = [row for _, _, row in sorted(ranked, key=lambda r: r[:2])[:MOST_STORED]]
    return sorted(chosen, key=lambda row: str(row["sha256"]))


def _images(ctx: Context, rows: Sequence[dict[str, Any]]) -> list[bytes]:
    """The encoded images, read by ranges from their segments."""
    by_segment: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        by_segment.setdefault(row["segment"], []).append(i)
    images: dict[int, bytes] = {}
    for segment, positions in by_segment.items():
        samples = segments.read_samples(ctx.store, segment, [rows[i] for i in positions])
        for i, (row, member) in zip(positions, samples, strict=True):
            images[i] = bytes(member[tar_members.HEADER : tar_members.HEADER + row["size"]])
    return [images[i] for i in range(len(rows))]


def _by_drop(rows: Sequence[dict[str, Any]], least: int = 20) -> dict[str, list[str]]:
    labels: dict[str, list[str]] = {}
    for row in rows:
        labels.setdefault(row["drop_id"], []).append(row["label"])
    return {drop: drop_labels for drop, drop_labels in labels.items() if len(drop_labels) >= least}
