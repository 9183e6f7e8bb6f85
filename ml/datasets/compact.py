"""Small drops make small segments; where many have gathered they are written anew as few large ones.

The version that comes of it holds the same samples in the same order under the same labels. The old
segments stay in the store, since older versions are made of them.
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
from ml.datasets.segments import Sample, Segment, Uploads

log = logging.getLogger(__name__)

_SMALL: Final = 0.5  # of the setting `segment_bytes`
_MANY: Final = 8  # segments in a row
_GROWTH: Final = 4  # times the largest of them: so a sample is copied a few times in its life, and not at every drop
_PAGE: Final = 5000


def compact(ctx: Context) -> int:
    """How many segments were replaced; 0 when there is nothing to gain.

    Killed anywhere, it leaves at most unreferenced objects; run again, it ends the same.

    Raises:
        ConflictError: the lock was lost and another version came in between; run it again.
        UnavailableError: a server does not answer.
    """
    with advisory_lock(ctx.engine, "datasets"):
        if versions.latest(ctx) is None:
            return 0
        parent, manifest = amend.newest(ctx)
        runs = small_runs(manifest.segments, _sizes(ctx, manifest.segments), ctx.settings.segment_bytes)
        if not runs:
            return 0
        made = {run[0]: _merged(ctx, run) for run in runs}
        gone = {segment for run in runs for segment in run}
        ids = [
            new
            for old in manifest.segments
            for new in ([s.id for s, _ in made[old]] if old in made else [] if old in gone else [old])
        ]

        def within(connection: Connection) -> None:
            for segment, hashes in (one for parts in made.values() for one in parts):
                _place(connection, segment, hashes)

        after = replace(manifest, segments=tuple(ids))
        amend.commit(ctx, parent, after, Counter(), "compaction", within)
    log.info("compacted %d segments to %d", len(gone), sum(map(len, made.values())))
    return len(gone)


def small_runs(order: Sequence[str], sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Small segments that lie beside each other, where rewriting them pays.

    Args:
        order: segment ids, in the order of the manifest.
        sizes: bytes of each.
        limit: bytes at which a segment is closed.
    """
    runs: list[list[str]] = [[]]
    for segment in order:
        if sizes[segment] < _SMALL * limit:
            runs[-1].append(segment)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if _pays([sizes[s] for s in run], limit)]


def _pays(sizes: Sequence[int], limit: int) -> bool:
    return len(sizes) >= _MANY and sum(sizes) >= min(limit, _GROWTH * max(sizes))


def _sizes(ctx: Context, order: Sequence[str]) -> dict[str, int]:
    with transaction(ctx.engine) as connection:
        query = select(segments_table.c.id, segments_table.c.bytes).where(segments_table.c.id.in_(order))
        return dict(connection.execute(query).all())


def _merged(ctx: Context, run: Sequence[str]) -> list[tuple[Segment, list[str]]]:
    """What the segments become, and the samples in each."""

    def everything() -> Iterator[Sample]:
        for segment in run:
            rows: list[dict[str, Any]] = loader.index(ctx, segment)
            yield from segments.samples(ctx.store, segment, rows)

    with Uploads(ctx.store) as uploads:
        made = segments.write(uploads, everything(), ctx.settings.segment_bytes)
        return [(new, rows["sha256"].to_pylist()) for new, rows in made]


def _place(connection: Connection, segment: Segment, hashes: Sequence[str]) -> None:
    connection.execute(insert(segments_table).values(vars(segment)))
    for start in range(0, len(hashes), _PAGE):
        page = hashes[start : start + _PAGE]
        connection.execute(update(samples).where(samples.c.sha256.in_(page)).values(segment_id=segment.id))
