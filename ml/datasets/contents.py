"""Contents of a dataset version, read column-wise from its segment indexes: counts, differences, lineage."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ml.context import Context
from ml.datasets import loader, versions
from ml.datasets.versions import Manifest
from ml.errors import UnavailableError


@dataclass(frozen=True)
class Difference:
    """The difference between two versions.

    Attributes:
        added: samples only in `after`, by their class there.
        removed: samples only in `before`, by their class there.
        relabelled: (label before, label after) → number of samples in both whose label changed.
    """

    before: str
    after: str
    added: dict[str, int]
    removed: dict[str, int]
    relabelled: dict[tuple[str, str], int]


def counts(ctx: Context, version_id: str) -> dict[str, dict[str, int]]:
    """Class → split → samples."""
    manifest = versions.manifest(ctx, version_id)
    counts_by_class: dict[str, Counter[str]] = {name: Counter() for name in manifest.classes}
    relabelled, removed = set(manifest.relabels), set(manifest.removals)
    for segment in manifest.segments:
        table = loader.columns(ctx, segment, ("sha256", "label", "split"))
        if relabelled or removed:
            for digest, label, split in _rows(table):
                if digest not in removed:
                    counts_by_class[manifest.label_of(digest, label)][split] += 1
            continue
        for row in table.group_by(["label", "split"]).aggregate([([], "count_all")]).to_pylist():
            counts_by_class[manifest.label_of("", row["label"])][row["split"]] += row["count_all"]
    return {name: dict(splits) for name, splits in counts_by_class.items()}


def drops(ctx: Context, version_id: str) -> list[str]:
    """Ids of the drops that the version has samples of."""
    parts = (loader.columns(ctx, s, ("drop_id",)) for s in versions.manifest(ctx, version_id).segments)
    return sorted({drop for table in parts for drop in table["drop_id"].unique().to_pylist()})


def difference(ctx: Context, before: str, after: str) -> Difference:
    """Compare two versions; the cost depends on the segments and labels in which they differ.

    Raises:
        NotFoundError: no such version.
    """
    old, new = versions.manifest(ctx, before), versions.manifest(ctx, after)
    old_segments, new_segments = set(old.segments) - set(new.segments), set(new.segments) - set(old.segments)
    labels_before = {d: old.label_of(d, label) for d, label in _samples(ctx, old_segments, old)}
    labels_after = {d: new.label_of(d, label) for d, label in _samples(ctx, new_segments, new)}
    changed = _changed_labels(ctx, old, new, labels_before, labels_after)
    return Difference(
        before=before,
        after=after,
        added=dict(Counter(label for d, label in labels_after.items() if d not in labels_before)),
        removed=dict(Counter(label for d, label in labels_before.items() if d not in labels_after)),
        relabelled=dict(Counter(changed)),
    )


def models(ctx: Context, version_id: str) -> list[int] | None:
    """Model versions that were trained on it; None while the registry is unavailable."""
    try:
        return sorted(m.version for m in ctx.registry.find(dataset_version=version_id))
    except UnavailableError:
        return None


def _changed_labels(
    ctx: Context, old: Manifest, new: Manifest, labels_before: dict[str, str], labels_after: dict[str, str]
) -> list[tuple[str, str]]:
    """Return (label before, label after) of samples in both versions that changed.

    Samples that only one of the versions removes are added to `labels_before` or `labels_after`.
    """
    pairs = [
        (labels_before[d], labels_after[d])
        for d in labels_before.keys() & labels_after.keys()
        if labels_before[d] != labels_after[d]
    ]
    relabelled = {d for d in old.relabels.keys() | new.relabels.keys() if old.relabels.get(d) != new.relabels.get(d)}
    removed_in_one = set(old.removals) ^ set(new.removals)
    renamed = {c for c in old.class_map.keys() | new.class_map.keys() if old.class_map.get(c) != new.class_map.get(c)}
    if not (relabelled or removed_in_one or renamed):
        return pairs
    for segment in sorted(set(old.segments) & set(new.segments)):
        for digest, label, _ in _rows(loader.columns(ctx, segment, ("sha256", "label", "split"))):
            if digest in removed_in_one:
                labels, manifest = (labels_before, old) if digest in new.removals else (labels_after, new)
                labels[digest] = manifest.label_of(digest, label)
            elif digest in relabelled or label in renamed:
                pair = (old.label_of(digest, label), new.label_of(digest, label))
                pairs += [pair] if pair[0] != pair[1] else []
    return pairs


def _samples(ctx: Context, segments: set[str], manifest: Manifest) -> Iterator[tuple[str, str]]:
    removed = set(manifest.removals)
    for segment in sorted(segments):
        for digest, label, _ in _rows(loader.columns(ctx, segment, ("sha256", "label", "split"))):
            if digest not in removed:
                yield digest, label


def _rows(table: pa.Table) -> Iterator[tuple[str, str, str]]:
    return zip(*(table[name].to_pylist() for name in ("sha256", "label", "split")), strict=True)


def as_json(comparison: Difference) -> Mapping[str, Any]:
    """The difference with `relabelled` as a list, for JSON."""
    pairs = [{"before": a, "after": b, "samples": n} for (a, b), n in sorted(comparison.relabelled.items())]
    return {**vars(comparison), "relabelled": pairs}
