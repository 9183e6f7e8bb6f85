"""Samples are erased: no later version holds their bytes, and the models that saw them are named."""

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
from ml.datasets.segments import Sample, Segment, Uploads
from ml.datasets.versions import Manifest
from ml.errors import NotFoundError
from ml.intake import row_verdicts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Erasure:
    """What was erased: `models` are registry versions that were trained or validated on any of it."""

    samples: int
    version: str | None
    models: list[int]
    objects: int


def of_drop(prefix: str) -> Select[str]:
    """Every sample that drops at `prefix` brought."""
    query = select(samples.c.sha256).join(drops_table, samples.c.drop_id == drops_table.c.id)
    return query.where(drops_table.c.prefix == prefix)


def of_subject(subject: str) -> Select[str]:
    return select(samples.c.sha256).where(samples.c.subject == subject)


def of_hashes(hashes: Sequence[str]) -> Select[str]:
    return select(samples.c.sha256).where(samples.c.sha256.in_(hashes))


def erase(ctx: Context, wanted: Select[str], *, actor: str, reason: str) -> Erasure:
    """Take samples out of the data for good and delete their bytes.

    Their segments are written anew without them, so the newest version can be rebuilt from its id and
    older ones that held them cannot: `evergreen datasets verify` says so of those. The uploaded files
    and quarantined copies go too; the images in the prediction log go when their retention ends. The
    same bytes are refused when they are uploaded again. Killed anywhere, it is finished by running it
    again.

    Raises:
        NotFoundError: no sample is meant by `wanted`.
        UnavailableError: a server does not answer.
    """
    with advisory_lock(ctx.engine, "datasets"):
        with transaction(ctx.engine) as connection:
            hashes = set(connection.execute(wanted).scalars())
        if not hashes:
            raise NotFoundError("no sample fits: nothing was erased")
        with transaction(ctx.engine) as connection:
            rows = _samples(connection, hashes)
        models = _models(ctx, hashes)
        old = sorted({r["segment_id"] for r in rows})
        version = _rewrite(ctx, hashes, rows, old, {"actor": actor, "reason": reason, "models": models})
    objects = finish(ctx)
    return Erasure(len(hashes), version, models, objects)


def finish(ctx: Context) -> int:
    """Delete the bytes of erasures that were begun; how many objects. `maintain` runs it as well."""
    with transaction(ctx.engine) as connection:
        waiting = list(connection.execute(select(erasures).where(erasures.c.finished_at.is_(None))).mappings())
    return sum(_finish(ctx, dict(row)) for row in waiting)


def erased(connection: Connection, hashes: Sequence[str]) -> set[str]:
    """Which of these were erased once."""
    # Erasures are few: all of them are read.
    return set(connection.execute(select(func.unnest(erasures.c.sha256))).scalars()) & set(hashes)


def _rewrite(
    ctx: Context, hashes: Set[str], rows: Sequence[dict[str, Any]], old: Sequence[str], told: dict[str, Any]
) -> str:
    parent, manifest = amend.newest(ctx)
    made = {segment: _without(ctx, segment, hashes) for segment in old}
    after = _manifest(manifest, made, hashes)
    gone = Counter({split: -count for split, count in Counter(r["split"] for r in rows).items()})

    def within(connection: Connection) -> None:
        for segment, kept in (s for parts in made.values() for s in parts):
            connection.execute(insert(segments_table).values(vars(segment)))
            connection.execute(update(samples).where(samples.c.sha256.in_(kept)).values(segment_id=segment.id))
        for table in (labels, label_tasks, samples):
            connection.execute(delete(table).where(table.c.sha256.in_(hashes)))
        connection.execute(insert(erasures).values(sha256=sorted(hashes), dataset_version=after.id, **told))

    return amend.commit(ctx, parent, after, gone, "erasure", within)


def _without(ctx: Context, segment: str, hashes: Set[str]) -> list[tuple[Segment, list[str]]]:
    """What the segment becomes, and the samples in it."""
    with Uploads(ctx.store) as uploads:
        made = segments.write(uploads, _kept(ctx, segment, hashes), ctx.settings.segment_bytes)
        return [(new, rows["sha256"].to_pylist()) for new, rows in made]


def _kept(ctx: Context, segment: str, hashes: Set[str]) -> Iterator[Sample]:
    rows = [row for row in loader.index(ctx, segment) if row["sha256"] not in hashes]
    return segments.samples(ctx.store, segment, rows)


def _manifest(before: Manifest, made: dict[str, list[tuple[Segment, list[str]]]], hashes: Set[str]) -> Manifest:
    ids = [new for old in before.segments for new in ([s.id for s, _ in made[old]] if old in made else [old])]
    return replace(
        before,
        segments=tuple(ids),
        relabels={k: v for k, v in before.relabels.items() if k not in hashes},
        removals=tuple(r for r in before.removals if r not in hashes),
    )


def _samples(connection: Connection, hashes: Set[str]) -> list[dict[str, Any]]:
    query = select(samples.c.sha256, samples.c.split, samples.c.segment_id).where(samples.c.sha256.in_(hashes))
    return [dict(row) for row in connection.execute(query).mappings()]


def _models(ctx: Context, hashes: Set[str]) -> list[int]:
    """Registry versions whose training or validation data held any of them."""
    found, seen = list[int](), dict[str, bool]()
    for model in ctx.registry.find():
        dataset = model.tags.get("dataset_version")
        if dataset is not None:
            if dataset not in seen:
                seen[dataset] = _held(ctx, dataset, hashes)
            if seen[dataset]:
                found.append(int(model.version))
    return sorted(found)


def _held(ctx: Context, dataset: str, hashes: Set[str]) -> bool:
    try:
        manifest = versions.manifest(ctx, dataset)
    except NotFoundError:
        return False
    shown = hashes - set(manifest.removals)
    for segment in manifest.segments:
        try:
            rows = loader.index(ctx, segment)
        except NotFoundError:  # erased before, with the samples that made it so
            continue
        if any(r["sha256"] in shown and r["split"] != "holdout" for r in rows):
            return True
    return False


def _finish(ctx: Context, row: dict[str, Any]) -> int:
    """Delete every object that still holds the bytes, then say that it is done."""
    hashes = set(row["sha256"])
    with transaction(ctx.engine) as connection:
        parent = select(dataset_versions.c.parent_id).where(dataset_versions.c.id == row["dataset_version"])
        before = connection.execute(parent).scalar_one()
        held = select(quarantine.c.id, quarantine.c.object_key).where(quarantine.c.sha256.in_(hashes))
        aside = list(connection.execute(held).mappings())
    old = set(versions.manifest(ctx, before).segments) - set(versions.manifest(ctx, row["dataset_version"]).segments)
    stored = [key for s in sorted(old) for key in (segments.tar_key(s), segments.index_key(s))]
    stored += [r["object_key"] for r in aside if r["object_key"]]
    uploaded = _uploaded(ctx, old, hashes)
    ctx.labels.delete(uploaded)
    ctx.store.delete(stored)
    with transaction(ctx.engine) as connection:
        connection.execute(delete(scores).where(scores.c.segment_id.in_(old)))
        ids = [r["id"] for r in aside]
        ended = {"status": "discarded", "object_key": None, "note": "erased", "ended_at": func.now()}
        connection.execute(update(quarantine).where(quarantine.c.id.in_(ids)).values(ended))
        connection.execute(update(erasures).where(erasures.c.id == row["id"]).values(finished_at=func.now()))
    log.info("erased %d samples: %d objects deleted", len(hashes), len(stored) + len(uploaded))
    return len(stored) + len(uploaded)


def _uploaded(ctx: Context, old: Set[str], hashes: Set[str]) -> list[str]:
    """Keys in the labels bucket that hold the bytes, as far as drops are still there."""
    ids = {r["drop_id"] for s in old for r in _rows_or_none(ctx, s) if r["sha256"] in hashes}
    keys = []
    for drop_id in sorted(ids):
        prefix = drops.get(ctx.engine, drop_id)["prefix"]
        try:
            with row_verdicts.opened(ctx, drop_id) as verdicts:
                pages = (page for fate in row_verdicts.ROW_VERDICTS for page in verdicts.pages(fate))
                # An archive goes whole: what else was in it has been accepted or put aside.
                keys += [prefix + (r["archive"] or r["key"]) for p in pages for r in p if r["sha256"] in hashes]
        except NotFoundError:
            continue
    return sorted(set(keys))


def _rows_or_none(ctx: Context, segment: str) -> list[dict[str, Any]]:
    try:
        return loader.index(ctx, segment)
    except NotFoundError:  # deleted by a run that was killed before it could say so
        return []
