"""Accepts a validated drop: stores its segments, then commits all catalog rows in one transaction."""

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
from ml.catalog.drops import DropRecord, QuarantineEntry
from ml.catalog.engine import advisory_lock, transaction
from ml.catalog.tables import segments as segments_table
from ml.context import Context
from ml.datasets import annotate, holdout_growth, relabels, segments, trust, versions
from ml.datasets.annotate import AnnotationChanges
from ml.datasets.incoming import IncomingDrop
from ml.datasets.relabels import RelabelCounts
from ml.datasets.segments import Sample, Segment, SegmentUploads
from ml.datasets.trust import Trust
from ml.datasets.versions import EMPTY, Manifest
from ml.errors import NotFoundError, UnavailableError
from ml.intake import entries, held, listing, quarantine, row_verdicts, staging_tars
from ml.intake.claim import acknowledge
from ml.intake.listing import Listing
from ml.validation import data_docs

log = logging.getLogger(__name__)

NOTHING_NEW = "the drop brought no image and no label that is not stored already"
_SAMPLE: Final = (
    *("sha256", "group_id", "split", "label", "drop_id", "segment_id"),
    *("width", "height", "phash_high", "phash_low", "subject"),
    *("thumbnail", "copy_signature", "copy_links"),
)
_ANNOTATION: Final = pa.schema([("sha256", pa.string()), *entries.ANNOTATION, ("source", pa.string())])


def accept(ctx: Context, drop_id: str) -> str | None:
    """Return the dataset version with the drop's new samples and labels; None if the drop added nothing or waits.

    A lock admits one drop at a time, so each sees the samples of the previous one. Idempotent: if the process is
    killed, only unreferenced objects remain, and a retry gives the same result. Memory holds one page of rows,
    however large the drop.

    Raises:
        NotFoundError: the drop has not been validated.
        ConflictError: the lock was lost and another drop was accepted meanwhile; retry.
        UnavailableError: a server does not answer.
    """
    drop = drops.get(ctx.engine, drop_id)
    if drop.status == "claimed":
        with (
            cycles.stage(ctx.engine, drop_id, "accept"),
            advisory_lock(ctx.engine, "datasets"),
            row_verdicts.open_stored(ctx, drop_id) as verdicts,
            bulk.row_buffer("samples", _SAMPLE) as samples,
            bulk.row_buffer("labels", annotate.COLUMNS) as labels,
            SegmentUploads(ctx.store) as uploads,
            ThreadPoolExecutor(1, "listing") as listing_pool,
        ):
            with transaction(ctx.engine) as connection:
                trusted = trust.of_drop(connection, drop.prefix, ctx.settings)
            acceptance = _Acceptance(ctx, drop, IncomingDrop(ctx, drop_id, verdicts, trusted), trusted, samples, labels)
            drop_listing = acceptance.run(uploads, listing_pool)
        acknowledge(ctx, drop_id, drop_listing)
    elif drop.status != "held":
        acknowledge(ctx, drop_id)
    finished = drops.get(ctx.engine, drop_id)
    return finished.dataset_version if finished.status == "accepted" else None


def _read_listing(ctx: Context, prefix: str) -> Listing | None:
    try:
        return listing.list_drop(ctx, prefix)
    except (NotFoundError, UnavailableError):  # `acknowledge` reads it again
        return None


@dataclass
class _Acceptance:
    """State of one acceptance: what is stored so far, and what the transaction will write."""

    ctx: Context
    drop: DropRecord
    rows: IncomingDrop
    trust: Trust
    samples: RowBuffer
    labels: RowBuffer
    new_segments: list[Segment] = field(default_factory=list)
    added_by_split: Counter[str] = field(default_factory=Counter)
    classes: set[str] = field(default_factory=set)
    changes: AnnotationChanges = field(default_factory=AnnotationChanges)
    relabelled: RelabelCounts = field(default_factory=RelabelCounts)
    quarantined: list[QuarantineEntry] = field(default_factory=list)

    def run(self, uploads: SegmentUploads, listing_pool: Executor) -> Listing | None:
        """Return the listing of the drop at the time of acceptance; None if it was not accepted or cannot be read."""
        ctx, drop_id = self.ctx, self.drop.id
        parent = versions.latest(ctx)
        for page in self.rows.duplicate_pages():
            self._add_existing(page)
        if self._waits():
            return None
        for segment, rows in segments.write(uploads, self._new_samples(), ctx.settings.segment_bytes):
            self._add_segment(segment, rows)
        if self.rows.repeated:  # other drops have added these since validation
            self._add_existing(self.rows.repeated)
            if self._waits():
                return None
        for page in self.rows.bad_pages():
            self.quarantined += quarantine.copy_images(ctx, self.drop.prefix, drop_id, page)
        manifest = self._manifest(parent)
        changed = bool(self.new_segments or self.changes.changes or self.changes.returned)
        if changed:
            ctx.store.put(versions.key(manifest.id), manifest.to_bytes(), "application/json")
        uploads.wait()
        with transaction(ctx.engine) as connection:
            if drops.locked_status(connection, drop_id) != "claimed":
                return None
            # Reads the bucket while the inserts below run.
            pending_listing = listing_pool.submit(_read_listing, ctx, self.drop.prefix)
            if changed:
                versions.check_newest(connection, parent)
                versions.insert_version(connection, manifest, parent, self.added_by_split, f"drop {drop_id}")
            self._write(connection)
            self._finish(connection, manifest.id if changed else None)
        return pending_listing.result()

    def _add_existing(self, page: list[dict[str, Any]]) -> None:
        changes = annotate.changes_for_existing(self.ctx, page, self.drop.id, self.trust)
        self.relabelled.add(changes)
        self._add_annotations(changes)

    def _waits(self) -> bool:
        """Whether the changed labels are too many to go unseen, and nobody has approved them."""
        with transaction(self.ctx.engine) as connection:
            report = relabels.judge(connection, self.relabelled, self.ctx.settings)
        return bool(report.findings) and held.hold(self.ctx, self.drop.id, report.findings)

    def _new_samples(self) -> Iterator[Sample]:
        drop_id = self.drop.id
        for page in self.rows.new_pages():
            self._add_annotations(annotate.changes_for_new(page, drop_id, self.ctx.settings, self.trust))
            for row, member in zip(page, staging_tars.read(self.ctx, drop_id, page), strict=True):
                row |= {"drop_id": drop_id, "size": row["bytes"]}
                yield row, member

    def _add_segment(self, segment: Segment, rows: pa.Table) -> None:
        self.new_segments.append(segment)
        self.added_by_split.update(rows["split"].to_pylist())
        self.classes.update(rows["label"].unique().to_pylist())
        self.samples.add(rows.append_column("segment_id", pa.repeat(segment.id, len(rows))))

    def _add_annotations(self, changes: AnnotationChanges) -> None:
        columns = {name: [getattr(a, name) for a in changes.annotations] for name in _ANNOTATION.names}
        rows = pa.Table.from_pydict(columns, _ANNOTATION)
        self.labels.add(rows.append_column("drop_id", pa.repeat(self.drop.id, len(rows))))
        self.changes.changes.extend(changes.changes)
        self.changes.returned.extend(changes.returned)
        self.added_by_split.update(sample.split for sample in changes.returned)
        self.changes.tasks.extend(changes.tasks)
        self.changes.settled.extend(changes.settled)

    def _manifest(self, parent: versions.DatasetVersion | None) -> Manifest:
        before = versions.manifest(self.ctx, parent.id) if parent else EMPTY
        relabels, returned = self.changes.relabels, {sample.sha256 for sample in self.changes.returned}
        return Manifest(
            segments=(*before.segments, *(s.id for s in self.new_segments)),
            relabels={**before.relabels, **relabels},
            removals=tuple(digest for digest in before.removals if digest not in returned),
            classes=tuple(sorted({*before.classes, *self.classes, *relabels.values()})),
            class_map=before.class_map,
        )

    def _write(self, connection: Connection) -> None:
        for segment in self.new_segments:
            connection.execute(insert(segments_table).values(vars(segment)).on_conflict_do_nothing())
        self.samples.copy(connection)
        self.labels.copy(connection)
        annotate.write(connection, self.changes)
        holdout_growth.record(connection, self.drop.id, self.rows.splitter, self.added_by_split["holdout"])
        drops.put_in_quarantine(connection, self.drop.id, self.quarantined)

    def _finish(self, connection: Connection, version: str | None) -> None:
        drop_id, accepted = self.drop.id, sum(s.samples for s in self.new_segments)
        drops.finish(
            connection,
            drop_id,
            "accepted",
            images=accepted + self.rows.duplicates + len(self.quarantined),
            accepted=accepted,
            quarantined=len(self.quarantined),
            duplicates=self.rows.duplicates,
            format=entries.head(self.ctx, drop_id).format,
            report_key=data_docs.key(drop_id),
            dataset_version=version,
        )
        if version is None:
            drops.stop_cycle(connection, drop_id, "stopped", NOTHING_NEW)
        else:
            cycles.set_dataset_version(connection, drop_id, version)
