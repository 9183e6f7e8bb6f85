"""Which samples a champion was not trained on, even if their segments were rewritten since."""

from collections.abc import Iterable, Set

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from ml.catalog.engine import transaction
from ml.catalog.tables import dataset_versions, samples
from ml.context import Context
from ml.datasets import loader, versions
from ml.datasets.loader import Split
from ml.datasets.versions import Manifest
from ml.errors import NotFoundError


def is_new(ctx: Context, split: Split, version_id: str, known_version: str) -> NDArray[np.bool_]:
    """``bool[N]``: the sample was not in version `known_version`, or had another label there.

    A class that was renamed or merged since counts as the same label. Only segments that are in just one of the
    two versions are read, so the cost depends on what changed.
    """
    try:
        known_manifest = versions.manifest(ctx, known_version)
    except NotFoundError:
        return np.ones(len(split), bool)
    manifest = versions.manifest(ctx, version_id)
    shared, returned = set(known_manifest.segments) & set(manifest.segments), set(known_manifest.removals)
    relabelled = {
        h
        for h in known_manifest.relabels.keys() | manifest.relabels.keys()
        if known_manifest.relabels.get(h) != manifest.relabels.get(h)
    }
    changed = relabelled | returned
    candidates = [
        i
        for i, (digest, segment) in enumerate(zip(split.sha256, split.segment_ids, strict=True))
        if segment not in shared or digest in changed
    ]
    result = np.zeros(len(split), bool)
    if candidates:
        previous_labels = _labels_before(
            ctx, known_manifest, shared, {split.segment_ids[i] for i in candidates}, known_version
        )
        for i in candidates:
            label, digest = previous_labels.get(split.sha256[i]), split.sha256[i]
            same = label is not None and manifest.class_map.get(label, label) == split.classes[split.labels[i]]
            result[i] = digest in returned or not same
    return result


def _labels_before(
    ctx: Context, manifest: Manifest, shared: Set[str], present: Set[str], known_version: str
) -> dict[str, str]:
    """Each sample's label in the version of `manifest`, for shared segments and for segments rewritten since."""
    try:
        rewritten = [s for s in manifest.segments if s not in shared]
        stored = _segment_labels(ctx, [*rewritten, *(present & shared)])
    except NotFoundError:
        # The segment was erased with some of its samples; the remaining ones were copied unchanged.
        stored = _segment_labels(ctx, present)
        old = _accepted_by(ctx, present - shared, known_version)
        inside = set(_segment_labels(ctx, present & shared))
        stored = {digest: label for digest, label in stored.items() if digest in old or digest in inside}
    return {digest: manifest.label_of(digest, label) for digest, label in stored.items()}


def _segment_labels(ctx: Context, segments: Iterable[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for segment in segments:
        table = loader.columns(ctx, segment, ("sha256", "label"))
        labels.update(zip(table["sha256"].to_pylist(), table["label"].to_pylist(), strict=True))
    return labels


def _accepted_by(ctx: Context, segments: Set[str], version_id: str) -> set[str]:
    """Samples of the segments that were accepted no later than the version was created."""
    created_at = select(dataset_versions.c.created_at).where(dataset_versions.c.id == version_id).scalar_subquery()
    query = select(samples.c.sha256).where(samples.c.segment_id.in_(segments), samples.c.created_at <= created_at)
    with transaction(ctx.engine) as connection:
        return set(connection.execute(query).scalars())
