"""What a version holds, read from its segments' indexes by column: counts, differences, lineage."""

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
    """What `after` has that `before` has not, and the reverse.

    Attributes:
        added: samples of each class, as `after` names it.
        removed: samples of each class, as `before` named it.
        relabelled: (label before, label after) → samples in both whose label changed.
    """

    before: str
    after: str
    added: dict[str, int]
    removed: dict[str, int]
    relabelled: dict[tuple[str, str], int]


def counts(ctx: Context, version_id: str) -> dict[str, dict[str, int]]:
    """Class → split → samples."""
    manifest = versions.manifest(ctx, version_id)
    found: dict[str, Counter[str]] = {name: Counter() for name in manifest.classes}
    special, removed = set(manifest.relabels), set(manifest.removals)
    for segment in manifest.segments:
        table = loader.columns(ctx, segment, ("sha256", "label", "split"))
        if special or removed:
            for digest, label, split in _rows(table):
                if digest not in removed:
                    found[manifest.label_of(digest, label)][split] += 1
            continue
        for row in table.group_by(["label", "split"]).aggregate([([], "count_all")]).to_pylist():
            found[manifest.label_of("", row["label"])][row["split"]] += row["count_all"]
    return {name: dict(splits) for name, splits in found.items()}


def drops(ctx: Context, version_id: str) -> list[str]:
    """Ids of the drops whose samples the version holds."""
    parts = (loader.columns(ctx, s, ("drop_id",)) for s in versions.manifest(ctx, version_id).segments)
    return sorted({drop for table in parts for drop in table["drop_id"].unique().to_pylist()})


def difference(ctx: Context, before: str, after: str) -> Difference:
    """Compare two versions; the cost follows the segments and labels in which they differ.

    Raises:
        NotFoundError: no such version.
    """
    old, new = versions.manifest(ctx, before), versions.manifest(ctx, after)
    gone, come = set(old.segments) - set(new.segments), set(new.segments) - set(old.segments)
    was = {d: old.label_of(d, label) for d, label in _samples(ctx, gone, old)}
    now = {d: new.label_of(d, label) for d, label in _samples(ctx, come, new)}
    both = _changed(ctx, old, new, was, now)
    return Difference(
        before=before,
        after=after,
        added=dict(Counter(label for d, label in now.items() if d not in was)),
        removed=dict(Counter(label for d, label in was.items() if d not in now)),
        relabelled=dict(Counter(both)),
    )


def models(ctx: Context, version_id: str) -> list[int] | None:
    """Registry versions that were trained on it; None when the registry cannot be asked."""
    try:
        return sorted(int(m.version) for m in ctx.registry.find(f"tag.dataset_version = '{version_id}'"))
    except UnavailableError:
        return None


def _changed(
    ctx: Context, old: Manifest, new: Manifest, was: dict[str, str], now: dict[str, str]
) -> list[tuple[str, str]]:
    """Labels before and after of samples in both; moves samples that only one removed into `was` and `now`."""
    pairs = [(was[d], now[d]) for d in was.keys() & now.keys() if was[d] != now[d]]
    touched = {d for d in old.relabels.keys() | new.relabels.keys() if old.relabels.get(d) != new.relabels.get(d)}
    hidden = set(old.removals) ^ set(new.removals)
    renamed = {c for c in old.class_map.keys() | new.class_map.keys() if old.class_map.get(c) != new.class_map.get(c)}
    if not (touched or hidden or renamed):
        return pairs
    for segment in sorted(set(old.segments) & set(new.segments)):
        for digest, label, _ in _rows(loader.columns(ctx, segment, ("sha256", "label", "split"))):
            if digest in hidden:
                side, manifest = (was, old) if digest in new.removals else (now, new)
                side[digest] = manifest.label_of(digest, label)
            elif digest in touched or label in renamed:
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


def as_json(found: Difference) -> Mapping[str, Any]:
    """With the relabelled pairs as a list."""
    pairs = [{"before": a, "after": b, "samples": n} for (a, b), n in sorted(found.relabelled.items())]
    return {**vars(found), "relabelled": pairs}
