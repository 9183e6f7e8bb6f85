"""The data: segments are rewritten without the images, in one transaction with every row that refers to them."""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

from sqlalchemy import ColumnElement, Connection, Table, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from ml.catalog import erasures
from ml.catalog.engine import transaction
from ml.catalog.tables import dataset_versions, label_changes, label_tasks, labels, samples, scores
from ml.catalog.tables import segments as segments_table
from ml.context import Context
from ml.datasets import amend, loader, segments, versions
from ml.datasets.segments import Sample, Segment, SegmentUploads
from ml.datasets.versions import Manifest
from ml.erasure import locate
from ml.erasure.content import Swept
from ml.erasure.locate import ImagesBySegment
from ml.errors import NotFoundError

Rewritten = dict[str, list[tuple[Segment, list[str]]]]
"""Id of a segment to the segments without the images that replace it, with the SHA-256 of their samples."""


@dataclass(frozen=True)
class Removal:
    """What was taken out of the data.

    Attributes:
        samples: number of samples.
        version: the dataset version without them; None if no version has to change.
        segments: ids of the segments that held any of the images.
        lost_versions: ids of dataset versions that can no longer be rebuilt.
        learned: those of them whose training or validation split held any of the images.
        sizes: SHA-256 to size of the encoded image in bytes.
    """

    samples: int = 0
    version: str | None = None
    segments: list[str] = field(default_factory=list)
    lost_versions: list[str] = field(default_factory=list)
    learned: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)


def take_out(ctx: Context, erasure_id: int, hashes: Collection[str]) -> Removal:
    """Take the images out of the newest dataset version and record it with the erasure, in one transaction.

    The caller holds the lock `datasets`. Running it again finds nothing more. The old segments' objects are
    deleted by `delete_segments`.

    Raises:
        UnavailableError: a server does not answer.
    """
    by_segment = locate.find(ctx, hashes)
    stored = _split_counts(ctx, hashes)
    present = _split_counts(ctx, hashes, ~samples.c.removed)  # those of reverted drops were subtracted before
    newest = versions.latest(ctx)
    lost, learned = _versions(ctx, by_segment) if by_segment else ([], [])
    removal = Removal(
        samples=sum(stored.values()),
        segments=sorted(by_segment),
        lost_versions=lost,
        learned=learned,
        sizes={digest: size for segment in by_segment.values() for digest, (_, size) in segment.items()},
    )
    manifest = versions.manifest(ctx, newest.id) if newest else versions.EMPTY
    current = [s for s in manifest.segments if s in by_segment]
    rewritten = {segment: _rewrite_segment(ctx, segment, hashes) for segment in current}
    amended = _without(manifest, rewritten, hashes)

    def write_rows(connection: Connection) -> None:
        _write_rows(connection, erasure_id, hashes, removal, rewritten)

    if newest is None or amended.id == newest.id:
        with transaction(ctx.engine) as connection:
            write_rows(connection)
        return removal
    removed = Counter({split: -count for split, count in present.items()})
    version = amend.commit(ctx, newest, amended, removed, "erasure", write_rows)
    return replace(removal, version=version)


def delete_segments(ctx: Context, ids: Collection[str]) -> Swept:
    """Delete the objects of segments that held erased images, and the gate's scores of their samples."""
    present = list[tuple[str, int]]()
    for segment in ids:
        for key in (segments.tar_key(segment), segments.index_key(segment)):
            try:
                present.append((key, ctx.store.info(key).size))
            except NotFoundError:
                continue
    with transaction(ctx.engine) as connection:
        query = select(scores.c.object_key).where(scores.c.segment_id.in_(ids))
        score_keys = list(connection.execute(query).scalars())
    ctx.store.delete([*(key for key, _ in present), *score_keys])
    with transaction(ctx.engine) as connection:
        connection.execute(delete(scores).where(scores.c.segment_id.in_(ids)))
    return Swept(len(present) + len(score_keys), sum(size for _, size in present))


def scan(ctx: Context, hashes: Collection[str]) -> Swept:
    """Count samples, and segments whose index names any of the images, whether a dataset version has them or not."""
    by_segment = locate.find(ctx, hashes, every=True)
    size = sum(size for segment in by_segment.values() for _, size in segment.values())
    rows = 0
    with transaction(ctx.engine) as connection:
        for page in erasures.pages(hashes):
            for table in (samples, labels, label_tasks, label_changes):
                rows += connection.execute(select(func.count()).where(table.c.sha256.in_(page))).scalar_one()
    return Swept(len(by_segment), size, rows)


def sizes(ctx: Context, hashes: Collection[str]) -> dict[str, int]:
    """Sizes in bytes of those of the images that are in segments."""
    by_segment = locate.find(ctx, hashes)
    return {digest: size for segment in by_segment.values() for digest, (_, size) in segment.items()}


def _split_counts(ctx: Context, hashes: Collection[str], *conditions: ColumnElement[bool]) -> Counter[str]:
    counts = Counter[str]()
    with transaction(ctx.engine) as connection:
        for page in erasures.pages(hashes):
            query = select(samples.c.split).where(samples.c.sha256.in_(page), *conditions)
            counts.update(connection.execute(query).scalars())
    return counts


def _write_rows(
    connection: Connection, erasure_id: int, hashes: Collection[str], removal: Removal, rewritten: Rewritten
) -> None:
    for segment, remaining in (s for parts in rewritten.values() for s in parts):
        connection.execute(insert(segments_table).values(vars(segment)).on_conflict_do_nothing())
        for page in erasures.pages(remaining):
            connection.execute(update(samples).where(samples.c.sha256.in_(page)).values(segment_id=segment.id))
    for page in erasures.pages(hashes):
        tables: tuple[Table, ...] = (labels, label_tasks, label_changes, samples)
        for table in tables:
            connection.execute(delete(table).where(table.c.sha256.in_(page)))
    marked = update(segments_table).where(segments_table.c.id.in_(removal.segments))
    connection.execute(marked.values(erased_at=func.now()))
    erasures.note_sizes(connection, erasure_id, removal.sizes)
    erasures.record_removal(connection, erasure_id, vars(removal))


def _rewrite_segment(ctx: Context, segment: str, hashes: Collection[str]) -> list[tuple[Segment, list[str]]]:
    """Rewrite a segment without the erased samples; return the new segments with their SHA-256."""
    with SegmentUploads(ctx.store) as uploads:
        written = segments.write(uploads, remaining(ctx, segment, hashes), ctx.settings.segment_bytes)
        return [(new, rows["sha256"].to_pylist()) for new, rows in written]


def remaining(ctx: Context, segment: str, hashes: Collection[str]) -> Iterator[Sample]:
    """The samples of a segment that are not erased, in order."""
    rows = [row for row in loader.index(ctx, segment) if row["sha256"] not in hashes]
    return segments.read_samples(ctx.store, segment, rows)


def _without(before: Manifest, rewritten: Rewritten, hashes: Collection[str]) -> Manifest:
    ids = [new for old in before.segments for new in ([s.id for s, _ in rewritten[old]] if old in rewritten else [old])]
    return replace(
        before,
        segments=tuple(ids),
        relabels={k: v for k, v in before.relabels.items() if k not in hashes},
        removals=tuple(r for r in before.removals if r not in hashes),
    )


def _versions(ctx: Context, by_segment: ImagesBySegment) -> tuple[list[str], list[str]]:
    """Ids of the versions that have any of the segments, and of those that learned from any of the images."""
    with transaction(ctx.engine) as connection:
        ids = list(connection.execute(select(dataset_versions.c.id).order_by(dataset_versions.c.number)).scalars())
    lost, learned = list[str](), list[str]()
    for version in ids:
        try:
            manifest = versions.read_manifest(ctx.store, version)
        except NotFoundError:
            continue
        of_version = [by_segment[s] for s in manifest.segments if s in by_segment]
        if of_version:
            lost.append(version)
        if locate.learned_from(manifest, of_version):
            learned.append(version)
    return lost, learned


def models_of(ctx: Context, learned: Collection[str]) -> list[int]:
    """Registry versions trained on any of these dataset versions.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    if not learned:
        return []
    return sorted(m.version for m in ctx.registry.find() if m.tags.get("dataset_version") in learned)
