"""Which samples a champion has not learned from, however their segments were rewritten since."""

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

    A class that was renamed or merged since is the same label. Only segments that one of the two
    versions lacks are looked into, so the cost follows what changed.
    """
    try:
        known = versions.manifest(ctx, known_version)
    except NotFoundError:
        return np.ones(len(split), bool)
    now = versions.manifest(ctx, version_id)
    shared, returned = set(known.segments) & set(now.segments), set(known.removals)
    relabelled = {
        h for h in known.relabels.keys() | now.relabels.keys() if known.relabels.get(h) != now.relabels.get(h)
    }
    asked = relabelled | returned
    open_questions = [
        i
        for i, (digest, segment) in enumerate(zip(split.sha256, split.segment_ids, strict=True))
        if segment not in shared or digest in asked
    ]
    found = np.zeros(len(split), bool)
    if open_questions:
        before = _labels_before(ctx, known, shared, {split.segment_ids[i] for i in open_questions}, known_version)
        for i in open_questions:
            label, digest = before.get(split.sha256[i]), split.sha256[i]
            same = label is not None and now.class_map.get(label, label) == split.classes[split.labels[i]]
            found[i] = digest in returned or not same
    return found


def _labels_before(
    ctx: Context, known: Manifest, shared: Set[str], present: Set[str], known_version: str
) -> dict[str, str]:
    """The label by which version `known` knew each sample of segments it shares, or that were rewritten since."""
    try:
        rewritten = [s for s in known.segments if s not in shared]
        stored = _stored(ctx, [*rewritten, *(present & shared)])
    except NotFoundError:
        # Erased with some of their samples; the others were copied as they were.
        stored = _stored(ctx, present)
        old = _older(ctx, present - shared, known_version)
        inside = set(_stored(ctx, present & shared))
        stored = {digest: label for digest, label in stored.items() if digest in old or digest in inside}
    return {digest: known.label_of(digest, label) for digest, label in stored.items()}


def _stored(ctx: Context, segments: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for segment in segments:
        table = loader.columns(ctx, segment, ("sha256", "label"))
        found.update(zip(table["sha256"].to_pylist(), table["label"].to_pylist(), strict=True))
    return found


def _older(ctx: Context, segments: Set[str], version_id: str) -> set[str]:
    """Samples of the segments that were accepted before, or with, the version."""
    made = select(dataset_versions.c.created_at).where(dataset_versions.c.id == version_id).scalar_subquery()
    query = select(samples.c.sha256).where(samples.c.segment_id.in_(segments), samples.c.created_at <= made)
    with transaction(ctx.engine) as connection:
        return set(connection.execute(query).scalars())
