"""Makes a validated drop part of the data: segments first, then everything in one transaction."""

import logging
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import insert

from ml.catalog import bulk, cycles, drops
from ml.catalog.bulk import RowBuffer
from ml.catalog.engine import advisory_lock, transaction
from ml.catalog.tables import segments as segments_table
from ml.context import Context
from ml.datasets import annotate, segments, versions
from ml.datasets.annotate import AnnotationChanges
from ml.datasets.incoming import IncomingDrop
from ml.datasets.segments import Sample, Segment, Uploads
from ml.datasets.versions import EMPTY, Manifest
from ml.errors import NotFoundError, UnavailableError
from ml.intake import entries, listing, quarantine, row_verdicts, staging_tars
from ml.intake.claim import acknowledge
from ml.intake.listing import Listing
from ml.validation import data_docs

log = logging.getLogger(__name__)

NOTHING_NEW = "the drop brought no image and no label that is not stored already"
_SAMPLE: Final = (
    *("sha256", "group_id", "split", "label", "drop_id", "segment_id"),
    *("width", "height", "phash_high", "phash_low", "subject"),
)
_ANNOTATION: Final = pa.schema([("sha256", pa.string()), *entries.ANNOTATION, ("source", pa.string())])


def accept(ctx: Context, drop_id: str) -> str | None:
    """The dataset version that holds the drop's new samples and labels; None if the drop brought nothing new.

    One drop is accepted at a time, so that each sees the samples of the one before. Killed anywhere,
    it leaves at most unreferenced objects; run again, it ends the same. Memory holds a page of rows,
    however large the drop.

    Raises:
        NotFoundError: the drop was not validated.
        ConflictError: the lock was lost and another drop was accepted meanwhile; run it again.
        UnavailableError: a server does not answer.
    """
    row = drops.get(ctx.engine, drop_id)
    if row["status"] == "claimed":
        with (
            cycles.stage(ctx.engine, drop_id, "accept"),
            advisory_lock(ctx.engine, "datasets"),
            row_verdicts.opened(ctx, drop_id) as verdicts,
            bulk.rows("samples", _SAMPLE) as samples,
            bulk.rows("labels", annotate.COLUMNS) as labels,
            Uploads(ctx.store) as uploads,
            ThreadPoolExecutor(1, "listing") as looking,
        ):
            seen = _Acceptance(ctx, row, IncomingDrop(ctx, verdicts), samples, labels).run(uploads, looking)
        acknowledge(ctx, drop_id, seen)
    else:
        acknowledge(ctx, drop_id)
    done = drops.get(ctx.engine, drop_id)
    version: str | None = done["dataset_version"] if done["status"] == "accepted" else None
    return version


def _look(ctx: Context, prefix: str) -> Listing | None:
    try:
        return listing.take(ctx, prefix)
    except (NotFoundError, UnavailableError):  # it is looked again in the end
        return None


@dataclass
class _Acceptance:
    """One drop on its way into the data: what was stored so far, and what the transaction will write."""

    ctx: Context
    drop: dict[str, Any]
    rows: IncomingDrop
    samples: RowBuffer
    labels: RowBuffer
    made: list[Segment] = field(default_factory=list)
    added: Counter[str] = field(default_factory=Counter)
    classes: set[str] = field(default_factory=set)
    told: AnnotationChanges = field(default_factory=AnnotationChanges)
    aside: list[dict[str, Any]] = field(default_factory=list)

    def run(self, uploads: Uploads, looking: Executor) -> Listing | None:
        """What the drop held when it was accepted, as far as that could be seen."""
        ctx, drop_id = self.ctx, self.drop["id"]
        parent = versions.latest(ctx)
        for segment, rows in segments.write(uploads, self._new(), ctx.settings.segment_bytes):
            self._keep(segment, rows)
        for page in self.rows.known():
            self._hear(annotate.of_known(ctx, page, drop_id))
        for page in self.rows.bad():
            self.aside += quarantine.hold(ctx, self.drop["prefix"], drop_id, page)
        manifest = self._manifest(parent)
        changed = bool(self.made or self.told.relabels)
        if changed:
            ctx.store.put(versions.key(manifest.id), manifest.to_bytes(), "application/json")
        uploads.wait()
        with transaction(ctx.engine) as connection:
            if drops.locked_status(connection, drop_id) != "claimed":
                return None
            seen = looking.submit(_look, ctx, self.drop["prefix"])  # this process has little to do meanwhile
            if changed:
                versions.check_newest(connection, parent)
                versions.insert_version(connection, manifest, parent, self.added, f"drop {drop_id}")
            self._write(connection)
            self._finish(connection, manifest.id if changed else None)
        return seen.result()

    def _new(self) -> Iterator[Sample]:
        drop_id = self.drop["id"]
        for page in self.rows.new():
            self._hear(annotate.of_new(page, drop_id, self.ctx.settings))
            for row, member in zip(page, staging_tars.read(self.ctx, drop_id, page), strict=True):
                row |= {"drop_id": drop_id, "size": row["bytes"]}
                yield row, member

    def _keep(self, segment: Segment, rows: pa.Table) -> None:
        self.made.append(segment)
        self.added.update(rows["split"].to_pylist())
        self.classes.update(rows["label"].unique().to_pylist())
        self.samples.add(rows.append_column("segment_id", pa.repeat(segment.id, len(rows))))

    def _hear(self, told: AnnotationChanges) -> None:
        rows = pa.Table.from_pylist(told.annotations, _ANNOTATION)
        self.labels.add(rows.append_column("drop_id", pa.repeat(self.drop["id"], len(rows))))
        self.told.relabels.update(told.relabels)
        self.told.tasks.extend(told.tasks)
        self.told.settled.extend(told.settled)

    def _manifest(self, parent: versions.DatasetVersion | None) -> Manifest:
        before = versions.manifest(self.ctx, parent.id) if parent else EMPTY
        relabels = self.told.relabels
        return Manifest(
            segments=(*before.segments, *(s.id for s in self.made)),
            relabels={**before.relabels, **relabels},
            removals=before.removals,
            classes=tuple(sorted({*before.classes, *self.classes, *relabels.values()})),
            class_map=before.class_map,
        )

    def _write(self, connection: Connection) -> None:
        for segment in self.made:
            connection.execute(insert(segments_table).values(vars(segment)).on_conflict_do_nothing())
        self.samples.copy(connection)
        self.labels.copy(connection)
        annotate.keep(connection, self.told)
        drops.put_in_quarantine(connection, self.drop["id"], self.aside)

    def _finish(self, connection: Connection, version: str | None) -> None:
        drop_id, accepted = self.drop["id"], sum(s.samples for s in self.made)
        drops.finish(
            connection,
            drop_id,
            "accepted",
            images=accepted + self.rows.duplicates + len(self.aside),
            accepted=accepted,
            quarantined=len(self.aside),
            duplicates=self.rows.duplicates,
            format=entries.head(self.ctx, drop_id).format,
            report_key=data_docs.key(drop_id),
            dataset_version=version,
        )
        if version is None:
            drops.stop_cycle(connection, drop_id, "stopped", NOTHING_NEW)
        else:
            cycles.set_dataset_version(connection, drop_id, version)
