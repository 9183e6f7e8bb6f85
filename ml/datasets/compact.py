"""Compaction: rewrites runs of small segments, which small drops leave, as a few large ones.

The new version has the same samples in the same order under the same labels. The old segments stay in
the store, since older versions refer to them.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Connection, insert, select, update

from ml.catalog.engine import advisory_lock, transaction
from ml.catalog.tables import samples
from ml.catalog.tables import segments as segments_table
from ml.context import Context
from ml.datasets import amend, loader, segments, versions
from ml.datasets.segments import Sample, Segment, SegmentUploads

log = logging.getLogger(__name__)

_SMALL: Final = 0.5  # of the setting `segment_bytes`
_MANY: Final = 8  # adjacent segments
_GROWTH: Final = 4  # a run must be this many times its largest segment, so each sample is copied a few times only
_PAGE: Final = 5000


def compact(ctx: Context) -> int:
    """Return how many segments were replaced; 0 when there is nothing to gain.

    Idempotent: if the process is killed, only unreferenced objects remain.

    Raises:
        ConflictError: the lock was lost and another version was created meanwhile; retry.
        UnavailableError: a server does not answer.
    """
    with advisory_lock(ctx.engine, "datasets"):
        if versions.latest(ctx) is None:
            return 0
        parent, manifest = amend.newest(ctx)
        runs = small_runs(manifest.segments, _sizes(ctx, manifest.segments), ctx.settings.segment_bytes)
        if not runs:
            return 0
        merged_by_first = {run[0]: _merge(ctx, run) for run in runs}
        replaced = {segment for run in runs for segment in run}
        ids = [
            new
            for old in manifest.segments
            for new in (
                [s.id for s, _ in merged_by_first[old]] if old in merged_by_first else [] if old in replaced else [old]
            )
        ]

        def write_rows(connection: Connection) -> None:
            for segment, hashes in (part for parts in merged_by_first.values() for part in parts):
                _insert_segment(connection, segment, hashes)

        compacted = replace(manifest, segments=tuple(ids))
        amend.commit(ctx, parent, compacted, Counter(), "compaction", write_rows)
    log.info("compacted %d segments to %d", len(replaced), sum(map(len, merged_by_first.values())))
    return len(replaced)


def small_runs(order: Sequence[str], sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Return runs of adjacent small segments that are worth rewriting.

    Args:
        order: segment ids, in the order of the manifest.
        sizes: bytes per segment.
        limit: target size of a segment in bytes.
    """
    runs: list[list[str]] = [[]]
    for segment in order:
        if sizes[segment] < _SMALL * limit:
            runs[-1].append(segment)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if _worth_rewriting([sizes[s] for s in run], limit)]


def _worth_rewriting(sizes: Sequence[int], limit: int) -> bool:
    return len(sizes) >= _MANY and sum(sizes) >= min(limit, _GROWTH * max(sizes))


def _sizes(ctx: Context, order: Sequence[str]) -> dict[str, int]:
    with transaction(ctx.engine) as connection:
        query = select(segments_table.c.id, segments_table.c.bytes).where(segments_table.c.id.in_(order))
        return dict(connection.execute(query).all())


def _merge(ctx: Context, run: Sequence[str]) -> list[tuple[Segment, list[str]]]:
    """Write the segments of a run as new ones; return each with the SHA-256 of its samples."""

    def samples_of_run() -> Iterator[Sample]:
        for segment in run:
            rows: list[dict[str, Any]] = loader.index(ctx, segment)
            yield from segments.read_samples(ctx.store, segment, rows)

    with SegmentUploads(ctx.store) as uploads:
        written = segments.write(uploads, samples_of_run(), ctx.settings.segment_bytes)
        return [(new, rows["sha256"].to_pylist()) for new, rows in written]


def _insert_segment(connection: Connection, segment: Segment, hashes: Sequence[str]) -> None:
    connection.execute(insert(segments_table).values(vars(segment)))
    for start in range(0, len(hashes), _PAGE):
        page = hashes[start : start + _PAGE]
        connection.execute(update(samples).where(samples.c.sha256.in_(page)).values(segment_id=segment.id))
