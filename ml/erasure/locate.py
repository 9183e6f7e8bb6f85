"""Which segments hold images: by the catalog for the newest dataset version, by their indexes for all others."""

import io
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sqlalchemy import select, update

from ml.catalog import erasures
from ml.catalog.engine import transaction
from ml.catalog.tables import samples
from ml.catalog.tables import segments as segments_table
from ml.context import Context
from ml.datasets import loader, segments, versions
from ml.datasets.versions import Manifest
from ml.errors import NotFoundError
from ml.intake import source

SegmentImages = Mapping[str, tuple[str, int]]
"""SHA-256 of the images of a segment that are looked for, to their split and their size in bytes."""
ImagesBySegment = Mapping[str, SegmentImages]
"""Segment id to what it holds."""
_COLUMNS: Final = ("sha256", "split", "size")


def find(ctx: Context, hashes: Collection[str], *, every: bool = False) -> ImagesBySegment:
    """The segments that hold any of the images, those included that only older versions or no version has.

    Reads one column of the index of each segment that is not in the newest version (compacted ones), about 70
    bytes a sample, from the host's cache if it is there; with `every` of all segments.

    The caller holds the lock `datasets`, so that no segment without a row is being written.

    Raises:
        UnavailableError: a server does not answer.
    """
    newest = versions.latest(ctx)
    current = set(versions.manifest(ctx, newest.id).segments) if newest else set[str]()
    wanted = pa.array(sorted(hashes), pa.string())
    with transaction(ctx.engine) as connection:
        query = select(segments_table.c.id).where(segments_table.c.erased_at.is_(None))
        rows = set(connection.execute(query).scalars())
        erased_query = select(segments_table.c.id).where(segments_table.c.erased_at.is_not(None))
        erased = set(connection.execute(erased_query).scalars())
        candidates = set[str]()
        for page in erasures.pages(hashes):
            in_page = select(samples.c.segment_id).where(samples.c.sha256.in_(page)).distinct()
            candidates |= set(connection.execute(in_page).scalars())
    held = dict[str, SegmentImages]()
    for segment in sorted(candidates | (rows if every else rows - current)):
        try:
            images = _images(loader.columns(ctx, segment, _COLUMNS), wanted)
        except NotFoundError:  # its objects were deleted by an erasure of a release that did not mark it
            _mark_erased(ctx, segment)
            continue
        if images:
            held[segment] = images
    for segment in _stored_ids(ctx):
        if segment not in rows and segment not in erased and (images := _orphan(ctx, segment, hashes, wanted)):
            held[segment] = images
    return held


def learned_from(manifest: Manifest, of_version: Iterable[SegmentImages]) -> bool:
    """Whether any of these images was in the training or validation split of the version."""
    removed = set(manifest.removals)
    return any(
        split != "holdout" and digest not in removed for images in of_version for digest, (split, _) in images.items()
    )


def _images(table: pa.Table, wanted: pa.Array) -> SegmentImages:
    chosen = table.filter(pc.is_in(table["sha256"], value_set=wanted))
    return {row["sha256"]: (row["split"], row["size"]) for row in chosen.to_pylist()}


def _mark_erased(ctx: Context, segment: str) -> None:
    with transaction(ctx.engine) as connection:
        statement = update(segments_table).where(segments_table.c.id == segment)
        connection.execute(statement.values(erased_at=segments_table.c.created_at))


def _stored_ids(ctx: Context) -> Iterator[str]:
    """Ids of the segments with an object in the bucket."""
    last = ""
    for info in ctx.store.list("segments/"):
        segment = info.key.removeprefix("segments/").partition(".")[0]
        if segment != last:
            yield segment
        last = segment


def _orphan(ctx: Context, segment: str, hashes: Collection[str], wanted: pa.Array) -> SegmentImages:
    """What a segment holds that was written by a process which was killed before it inserted the row."""
    try:
        index = ctx.store.get(segments.index_key(segment))
        return _images(pq.ParquetFile(io.BytesIO(index)).read(columns=list(_COLUMNS)), wanted)
    except NotFoundError:
        pass
    try:
        info = ctx.store.info(segments.tar_key(segment))
    except NotFoundError:
        return {}
    with source.open_object(ctx.store, "", info) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        digests = {member.name.partition(".")[0]: member.size for member in tar}
    return {digest: ("holdout", digests[digest]) for digest in digests.keys() & set(hashes)}
