"""Makes a validated drop part of the data: segments first, then everything in one transaction."""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import insert

from ml.catalog import cycles, drops
from ml.catalog.classes import class_map, renamed
from ml.catalog.engine import advisory_lock, transaction
from ml.catalog.tables import samples
from ml.catalog.tables import segments as segments_table
from ml.context import Context
from ml.datasets import annotate, erase, near, segments, versions
from ml.datasets.segments import INDEX_SCHEMA, Segment
from ml.datasets.versions import EMPTY, Manifest
from ml.errors import NotFoundError, UnavailableError
from ml.intake import docs, judged, packs, quarantine
from ml.intake.claim import acknowledge
from ml.intake.judged import Judged

log = logging.getLogger(__name__)

NOTHING_NEW = "the drop brought no image and no label that is not stored already"
_BATCH = 256
_INSERT = 1000


def accept(ctx: Context, drop_id: str) -> str | None:
    """The dataset version that holds the drop's new samples and labels; None if the drop brought nothing new.

    One drop is accepted at a time, so that each sees the samples of the one before. Killed anywhere,
    it leaves at most unreferenced objects; run again, it ends the same.

    Raises:
        NotFoundError: the drop was not validated.
        ConflictError: the lock was lost and another drop was accepted meanwhile; run it again.
        UnavailableError: a server does not answer.
    """
    row = drops.get(ctx.engine, drop_id)
    if row["status"] == "claimed":
        with cycles.stage(ctx.engine, drop_id, "accept"), advisory_lock(ctx.engine, "datasets"):
            _accept(ctx, row)
    acknowledge(ctx, drop_id)
    done = drops.get(ctx.engine, drop_id)
    version: str | None = done["dataset_version"] if done["status"] == "accepted" else None
    return version


def _accept(ctx: Context, drop: dict[str, Any]) -> None:
    parent = versions.latest(ctx)
    parts = _as_of_now(ctx, judged.read(ctx, drop["id"]))
    made = list(segments.write(ctx.store, _images(ctx, drop["prefix"], drop["id"], parts), ctx.settings.segment_bytes))
    quarantined = quarantine.hold(ctx, drop["prefix"], drop["id"], parts.bad)
    rows = [r for s in made for r in s.rows]
    told = annotate.take(ctx, drop["id"], {r["sha256"] for r in rows}, parts)
    manifest = _manifest(ctx, parent, made, rows, told.relabels)
    changed = bool(made or told.relabels)
    if changed:
        ctx.store.put(versions.key(manifest.id), manifest.to_bytes(), "application/json")
    with transaction(ctx.engine) as connection:
        if drops.locked_status(connection, drop["id"]) != "claimed":
            return
        if changed:
            versions.check_newest(connection, parent)
            versions.insert_version(connection, manifest, parent, versions.counts(rows), f"drop {drop['id']}")
            _insert_samples(connection, made, {r["sha256"]: r for r in parts.good})
        annotate.keep(connection, told)
        drops.put_in_quarantine(connection, drop["id"], quarantined)
        _finish(connection, drop["id"], parts, made, manifest.id if changed else None)


def _as_of_now(ctx: Context, parts: Judged) -> Judged:
    """The verdict again, against what other drops brought since validation; places for what is new."""
    known = judged.known_labels(ctx.engine, [r["sha256"] for r in parts.good])
    new = [r for r in parts.good if r["sha256"] not in known]
    with transaction(ctx.engine) as connection:
        mapping = class_map(connection)
        gone = erase.erased(connection, [r["sha256"] for r in new])
        barred = [r | {"reasons": ["this image was erased on request"]} for r in new if r["sha256"] in gone]
        new = [r | {"label": renamed(r["label"], mapping)} for r in new if r["sha256"] not in gone]
        places = near.place(new, near.stored(connection, new), ctx.settings)
    good, aside = [], barred
    for row, place in zip(new, places, strict=True):
        if isinstance(place, str):
            aside.append(row | {"reasons": [place]})
        else:
            good.append(row | {"group_id": place.group_id, "split": place.split, "neighbours": place.neighbours})
    known_now = [r for r in parts.good if r["sha256"] in known]
    duplicates = [r | {"label": renamed(r["label"], mapping)} for r in (*parts.duplicates, *known_now)]
    return Judged(parts.format, good, duplicates, [*parts.bad, *aside])


def _finish(connection: Connection, drop_id: str, parts: Judged, made: list[Segment], version: str | None) -> None:
    accepted = sum(s.samples for s in made)
    drops.finish(
        connection,
        drop_id,
        "accepted",
        images=accepted + len(parts.duplicates) + len(parts.bad),
        accepted=accepted,
        quarantined=len(parts.bad),
        duplicates=len(parts.duplicates),
        format=parts.format,
        report_key=docs.key(drop_id),
        dataset_version=version,
    )
    if version is None:
        drops.stop_cycle(connection, drop_id, "stopped", NOTHING_NEW)
    else:
        cycles.set_dataset_version(connection, drop_id, version)


def _images(ctx: Context, prefix: str, drop_id: str, parts: Judged) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Index rows of the good images with their bytes; one that changed since inspection is added to the bad."""
    for start in range(0, len(parts.good), _BATCH):
        batch = parts.good[start : start + _BATCH]
        for row, data in zip(batch, packs.images(ctx, prefix, drop_id, batch), strict=True):
            if isinstance(data, UnavailableError):
                raise data
            if isinstance(data, Exception) or hashlib.sha256(data).hexdigest() != row["sha256"]:
                words = "removed from the drop" if isinstance(data, NotFoundError) else "changed in the drop"
                parts.bad.append(row | {"reasons": [f"{words} between inspection and acceptance"]})
                continue
            yield {name: row.get(name) for name in INDEX_SCHEMA.names} | {"drop_id": drop_id}, data


def _manifest(
    ctx: Context,
    parent: versions.DatasetVersion | None,
    made: list[Segment],
    rows: list[dict[str, Any]],
    relabels: Mapping[str, str],
) -> Manifest:
    before = versions.manifest(ctx, parent.id) if parent else EMPTY
    return Manifest(
        segments=(*before.segments, *(s.id for s in made)),
        relabels={**before.relabels, **relabels},
        removals=before.removals,
        classes=tuple(sorted({*before.classes, *(r["label"] for r in rows), *relabels.values()})),
        class_map=before.class_map,
    )


def _insert_samples(connection: Connection, made: list[Segment], judged_rows: dict[str, dict[str, Any]]) -> None:
    for segment in made:
        connection.execute(
            insert(segments_table)
            .values({c.name: getattr(segment, c.name) for c in segments_table.columns if c.name != "created_at"})
            .on_conflict_do_nothing()
        )
        for start in range(0, len(segment.rows), _INSERT):
            page = segment.rows[start : start + _INSERT]
            columns = ("sha256", "group_id", "split", "label", "drop_id", "width", "height")
            looks = ("phash_high", "phash_low", "subject")
            values = [
                {c: r[c] for c in columns}
                | {c: judged_rows[r["sha256"]].get(c) for c in looks}
                | {"segment_id": segment.id}
                for r in page
            ]
            connection.execute(insert(samples), values)
