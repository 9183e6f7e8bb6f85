"""Erasure: removes samples' bytes from all later versions and lists the models trained on them."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Select, delete, func, insert, select, update

from ml.catalog import drops
from ml.catalog.engine import advisory_lock, transaction
from ml.catalog.tables import dataset_versions, erasures, label_tasks, labels, quarantine, samples, scores
from ml.catalog.tables import drops as drops_table
from ml.catalog.tables import segments as segments_table
from ml.context import Context
from ml.datasets import amend, loader, segments, versions
from ml.datasets.segments import Sample, Segment, SegmentUploads
from ml.datasets.versions import Manifest
from ml.errors import NotFoundError
from ml.intake import row_verdicts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Erasure:
    """The result of an erasure; `models` are registry versions trained or validated on any of the samples."""

    samples: int
    version: str | None
    models: list[int]
    objects: int


@dataclass(frozen=True, slots=True)
class _StoredSample:
    """Where a sample is stored."""

    sha256: str
    split: str
    segment_id: str


@dataclass(frozen=True, slots=True)
class _UnfinishedErasure:
    """A row of `erasures` whose objects are not all deleted yet."""

    id: int
    sha256: list[str]
    dataset_version: str


def of_drop(prefix: str) -> Select[str]:
    """Select every sample added by drops at `prefix`."""
    query = select(samples.c.sha256).join(drops_table, samples.c.drop_id == drops_table.c.id)
    return query.where(drops_table.c.prefix == prefix)


def of_subject(subject: str) -> Select[str]:
    return select(samples.c.sha256).where(samples.c.subject == subject)


def of_hashes(hashes: Sequence[str]) -> Select[str]:
    return select(samples.c.sha256).where(samples.c.sha256.in_(hashes))


def erase(ctx: Context, selection: Select[str], *, actor: str, reason: str) -> Erasure:
    """Remove the selected samples from the data permanently and delete their bytes.

    Their segments are rewritten without them: the newest version can be rebuilt from its id, older ones
    that had the samples cannot (`evergreen datasets verify` reports those). Uploaded files and quarantined
    copies are deleted too; images in the prediction log expire with its retention. The same bytes are
    rejected when they are uploaded again. If the process is killed, running it again completes the erasure.

    Raises:
        NotFoundError: `selection` matches no sample.
        UnavailableError: a server does not answer.
    """
    with advisory_lock(ctx.engine, "datasets"):
        with transaction(ctx.engine) as connection:
            hashes = set(connection.execute(selection).scalars())
        if not hashes:
            raise NotFoundError("no sample matches: nothing was erased")
        with transaction(ctx.engine) as connection:
            selected = _samples(connection, hashes)
        models = _models(ctx, hashes)
        segment_ids = sorted({sample.segment_id for sample in selected})
        version = _commit_rewrite(
            ctx, hashes, selected, segment_ids, {"actor": actor, "reason": reason, "models": models}
        )
    objects = finish(ctx)
    return Erasure(len(hashes), version, models, objects)


def finish(ctx: Context) -> int:
    """Delete the objects of unfinished erasures; return how many. `maintain` runs it as well."""
    query = select(erasures.c.id, erasures.c.sha256, erasures.c.dataset_version)
    with transaction(ctx.engine) as connection:
        rows = connection.execute(query.where(erasures.c.finished_at.is_(None))).mappings()
        unfinished = [_UnfinishedErasure(**row) for row in rows]
    return sum(_finish(ctx, erasure) for erasure in unfinished)


def erased(connection: Connection, hashes: Sequence[str]) -> set[str]:
    """Return those of `hashes` that were erased before."""
    # Erasures are few: all of them are read.
    return set(connection.execute(select(func.unnest(erasures.c.sha256))).scalars()) & set(hashes)


def _commit_rewrite(
    ctx: Context,
    hashes: Set[str],
    selected: Sequence[_StoredSample],
    segment_ids: Sequence[str],
    details: dict[str, Any],
) -> str:
    parent, manifest = amend.newest(ctx)
    rewritten = {segment: _rewrite_segment(ctx, segment, hashes) for segment in segment_ids}
    amended = _manifest(manifest, rewritten, hashes)
    removed = Counter({split: -count for split, count in Counter(sample.split for sample in selected).items()})

    def write_rows(connection: Connection) -> None:
        for segment, remaining in (s for parts in rewritten.values() for s in parts):
            connection.execute(insert(segments_table).values(vars(segment)))
            connection.execute(update(samples).where(samples.c.sha256.in_(remaining)).values(segment_id=segment.id))
        for table in (labels, label_tasks, samples):
            connection.execute(delete(table).where(table.c.sha256.in_(hashes)))
        connection.execute(insert(erasures).values(sha256=sorted(hashes), dataset_version=amended.id, **details))

    return amend.commit(ctx, parent, amended, removed, "erasure", write_rows)


def _rewrite_segment(ctx: Context, segment: str, hashes: Set[str]) -> list[tuple[Segment, list[str]]]:
    """Rewrite a segment without the erased samples; return the new segments with their SHA-256."""
    with SegmentUploads(ctx.store) as uploads:
        written = segments.write(uploads, _remaining(ctx, segment, hashes), ctx.settings.segment_bytes)
        return [(new, rows["sha256"].to_pylist()) for new, rows in written]


def _remaining(ctx: Context, segment: str, hashes: Set[str]) -> Iterator[Sample]:
    rows = [row for row in loader.index(ctx, segment) if row["sha256"] not in hashes]
    return segments.read_samples(ctx.store, segment, rows)


def _manifest(before: Manifest, rewritten: dict[str, list[tuple[Segment, list[str]]]], hashes: Set[str]) -> Manifest:
    ids = [new for old in before.segments for new in ([s.id for s, _ in rewritten[old]] if old in rewritten else [old])]
    return replace(
        before,
        segments=tuple(ids),
        relabels={k: v for k, v in before.relabels.items() if k not in hashes},
        removals=tuple(r for r in before.removals if r not in hashes),
    )


def _samples(connection: Connection, hashes: Set[str]) -> list[_StoredSample]:
    query = select(samples.c.sha256, samples.c.split, samples.c.segment_id).where(samples.c.sha256.in_(hashes))
    return [_StoredSample(**row) for row in connection.execute(query).mappings()]


def _models(ctx: Context, hashes: Set[str]) -> list[int]:
    """Registry versions whose training or validation data held any of them."""
    models, used_by_dataset = list[int](), dict[str, bool]()
    for model in ctx.registry.find():
        dataset = model.tags.get("dataset_version")
        if dataset is not None:
            if dataset not in used_by_dataset:
                used_by_dataset[dataset] = _was_trained_on(ctx, dataset, hashes)
            if used_by_dataset[dataset]:
                models.append(model.version)
    return sorted(models)


def _was_trained_on(ctx: Context, dataset: str, hashes: Set[str]) -> bool:
    try:
        manifest = versions.manifest(ctx, dataset)
    except NotFoundError:
        return False
    listed = hashes - set(manifest.removals)
    for segment in manifest.segments:
        try:
            rows = loader.index(ctx, segment)
        except NotFoundError:  # deleted by an earlier erasure
            continue
        if any(r["sha256"] in listed and r["split"] != "holdout" for r in rows):
            return True
    return False


def _finish(ctx: Context, erasure: _UnfinishedErasure) -> int:
    """Delete every object that still contains the bytes, then mark the erasure as finished."""
    hashes = set(erasure.sha256)
    with transaction(ctx.engine) as connection:
        query_parent = select(dataset_versions.c.parent_id).where(dataset_versions.c.id == erasure.dataset_version)
        parent_id = connection.execute(query_parent).scalar_one()
        query = select(quarantine.c.id, quarantine.c.object_key).where(quarantine.c.sha256.in_(hashes))
        quarantined = connection.execute(query).all()
    before, after = (versions.manifest(ctx, version) for version in (parent_id, erasure.dataset_version))
    old = set(before.segments) - set(after.segments)
    store_keys = [key for s in sorted(old) for key in (segments.tar_key(s), segments.index_key(s))]
    store_keys += [image.object_key for image in quarantined if image.object_key]
    upload_keys = _upload_keys(ctx, old, hashes)
    ctx.labels.delete(upload_keys)
    ctx.store.delete(store_keys)
    with transaction(ctx.engine) as connection:
        connection.execute(delete(scores).where(scores.c.segment_id.in_(old)))
        ids = [image.id for image in quarantined]
        discarded = {"status": "discarded", "object_key": None, "note": "erased", "ended_at": func.now()}
        connection.execute(update(quarantine).where(quarantine.c.id.in_(ids)).values(discarded))
        connection.execute(update(erasures).where(erasures.c.id == erasure.id).values(finished_at=func.now()))
    log.info("erased %d samples: %d objects deleted", len(hashes), len(store_keys) + len(upload_keys))
    return len(store_keys) + len(upload_keys)


def _upload_keys(ctx: Context, old: Set[str], hashes: Set[str]) -> list[str]:
    """Keys in the labels bucket that contain the bytes, for drops whose verdicts still exist."""
    ids = {r["drop_id"] for s in old for r in _rows_or_none(ctx, s) if r["sha256"] in hashes}
    keys = []
    for drop_id in sorted(ids):
        prefix = drops.get(ctx.engine, drop_id).prefix
        try:
            with row_verdicts.open_stored(ctx, drop_id) as verdicts:
                pages = (page for verdict in row_verdicts.ROW_VERDICTS for page in verdicts.pages(verdict))
                # An archive is deleted as a whole: its other images have been accepted or quarantined.
                keys += [prefix + (r["archive"] or r["key"]) for p in pages for r in p if r["sha256"] in hashes]
        except NotFoundError:
            continue
    return sorted(set(keys))


def _rows_or_none(ctx: Context, segment: str) -> list[dict[str, Any]]:
    try:
        return loader.index(ctx, segment)
    except NotFoundError:  # deleted by a run that was killed before it marked the erasure as finished
        return []
