"""Makes a validated drop part of the data: segments first, then everything in one transaction."""

import hashlib
import logging
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import insert

from ml.catalog import cycles, drops
from ml.catalog.engine import advisory_lock, transaction
from ml.catalog.tables import labels, samples
from ml.catalog.tables import segments as segments_table
from ml.context import Context
from ml.datasets import segments, versions
from ml.datasets.segments import INDEX_SCHEMA, Segment
from ml.datasets.splits import split_of
from ml.datasets.versions import EMPTY, Manifest
from ml.errors import NotFoundError, UnavailableError
from ml.intake import docs, judged, quarantine
from ml.intake.claim import acknowledge
from ml.intake.judged import Judged

log = logging.getLogger(__name__)

NOTHING_NEW = "the drop brought no image that is not stored already"
_BATCH = 256
_INSERT = 1000


def accept(ctx: Context, drop_id: str) -> str | None:
    """The dataset version that holds the drop's new samples; None if the drop brought nothing new.

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
    version: str | None = done["dataset_version"] if done["status"] == "accepted" and done["accepted"] else None
    return version


def _accept(ctx: Context, drop: dict[str, Any]) -> None:
    parent = versions.latest(ctx)
    parts = _as_of_now(ctx, judged.read(ctx, drop["id"]))
    made = list(segments.write(ctx.store, _images(ctx, drop["prefix"], drop["id"], parts), ctx.settings.segment_bytes))
    quarantined = quarantine.hold(ctx, drop["prefix"], drop["id"], parts.bad)
    rows = [r for s in made for r in s.rows]
    manifest = _manifest(ctx, parent, made, rows)
    if made:
        ctx.store.put(versions.key(manifest.id), manifest.to_bytes(), "application/json")
    with transaction(ctx.engine) as connection:
        if drops.locked_status(connection, drop["id"]) != "claimed":
            return
        if made:
            versions.check_newest(connection, parent)
            versions.insert_version(connection, manifest, parent, versions.counts(rows), f"drop {drop['id']}")
            _insert_samples(connection, made, {r["sha256"]: r for r in parts.good})
        drops.put_in_quarantine(connection, drop["id"], quarantined)
        _finish(connection, drop["id"], parts, made, manifest.id if made else None)


def _as_of_now(ctx: Context, parts: Judged) -> Judged:
    """The verdict again, against what other drops brought since validation."""
    known = judged.known_labels(ctx.engine, [r["sha256"] for r in parts.good])
    conflict = judged.conflicts(parts.good, known)
    late = [r | {"reasons": [conflict[r["key"]]]} for r in parts.good if r["key"] in conflict]
    rest = [r for r in parts.good if r["key"] not in conflict]
    return Judged(
        format=parts.format,
        good=[r for r in rest if r["sha256"] not in known],
        duplicates=[*parts.duplicates, *(r for r in rest if r["sha256"] in known)],
        bad=[*parts.bad, *late],
    )


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
    settings = ctx.settings
    for start in range(0, len(parts.good), _BATCH):
        batch = parts.good[start : start + _BATCH]
        for row, data in zip(batch, ctx.labels.get_many(prefix + r["key"] for r in batch), strict=True):
            if isinstance(data, UnavailableError):
                raise data
            if isinstance(data, NotFoundError) or hashlib.sha256(data).hexdigest() != row["sha256"]:
                words = "removed from the drop" if isinstance(data, NotFoundError) else "changed in the drop"
                parts.bad.append(row | {"reasons": [f"{words} between inspection and acceptance"]})
                continue
            group = row["fingerprint"]
            split = split_of(group, settings.split_salt, settings.holdout_share, settings.validation_share)
            index = {name: row.get(name) for name in INDEX_SCHEMA.names}
            yield index | {"group_id": group, "split": split, "drop_id": drop_id}, data


def _manifest(
    ctx: Context, parent: versions.DatasetVersion | None, made: list[Segment], rows: list[dict[str, Any]]
) -> Manifest:
    before = versions.manifest(ctx, parent.id) if parent else EMPTY
    return Manifest(
        segments=(*before.segments, *(s.id for s in made)),
        relabels=before.relabels,
        removals=before.removals,
        classes=tuple(sorted({*before.classes, *(before.label_of("", r["label"]) for r in rows)})),
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
            connection.execute(insert(samples), [{c: r[c] for c in columns} | {"segment_id": segment.id} for r in page])
            connection.execute(insert(labels), [_annotation(r, judged_rows[r["sha256"]]) for r in page])


def _annotation(row: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    return {
        "sha256": row["sha256"],
        "label": row["label"],
        "source": "drop",
        "drop_id": row["drop_id"],
        **{name: told[name] for name in ("annotator", "confidence", "labelled_at")},
    }
