"""Inspects every image of a drop: fetches, hashes, decodes and measures it. Chunks are independent tasks."""

import base64
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ml.catalog import cycles, erasures, existing_samples
from ml.catalog.engine import transaction
from ml.context import Context
from ml.errors import NotFoundError
from ml.imaging.images import Limits
from ml.imaging.sandbox import DecodeResult, DecoderPool
from ml.intake import entries, fetching, quarantine, staging_tars, thumbnails
from ml.intake.fetching import FetchedBatch
from ml.intake.staging_tars import StagingTar

LabelLookup = Callable[[Sequence[str]], dict[str, str]]
"""Returns the labels of the stored samples among some SHA-256s, by SHA-256."""
_Lookup = Callable[[Sequence[str]], "_Known"]

SCHEMA = pa.schema(
    [
        *entries.FIELDS,
        ("sha256", pa.string()),
        ("bytes", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
        ("mode", pa.string()),
        ("grey", pa.bool_()),
        ("brightness", pa.float64()),
        ("contrast", pa.float64()),
        ("sharpness", pa.float64()),
        ("entropy", pa.float64()),
        ("fingerprint", pa.string()),
        ("phash_high", pa.int32()),
        ("phash_low", pa.int32()),
        ("chunk", pa.int32()),
        ("known", pa.string()),  # the label of the stored sample with the same bytes, if any
        ("packed", pa.int64()),  # offset of its member in the chunk's staging tar; null: the image is unusable
    ]
)
_DECODE_BATCH = 64  # images sent to a decoder at once
_ROW_GROUP = 4096  # rows written together; each group costs as much as hundreds of rows
_SMALL_IMAGE = 8192  # bytes; smaller images take longer to fetch than to decode, so one decoder is enough


def chunk_count(ctx: Context, drop_id: str) -> int:
    """The number of chunks that `inspect_chunk` must be called for."""
    return entries.head(ctx, drop_id).pages


def chunk_key(drop_id: str, chunk: int) -> str:
    return f"drops/{drop_id}/inspected/{chunk:06}.parquet"


def inspect_chunk(ctx: Context, drop_id: str, chunk: int, find_labels: LabelLookup | None = None) -> int:
    """Inspect one chunk and write its rows (`SCHEMA`) to the store; returns their number.

    A defect of an image is recorded in its row's `problem`; it never fails the task. So is that it was erased.

    Args:
        find_labels: replaces the catalog in a dry run, which has no cycle to record the duration in either.

    Raises:
        UnavailableError: the object store or the catalog failed; the chunk is inspected again on retry.
    """
    limits = Limits(ctx.settings.max_image_bytes, ctx.settings.max_image_pixels)
    with cycles.stage(ctx.engine, drop_id, "inspect") if find_labels is None else nullcontext():
        head, rows = entries.head(ctx, drop_id), entries.read(ctx, drop_id, chunk)
        _check_archives(ctx, head, rows)
        with TemporaryDirectory() as folder:
            buffer, staging_tar = io.BytesIO(), StagingTar(Path(folder) / "staging.tar")
            small: list[Mapping[str, Any]] = []
            with (
                DecoderPool(limits, processes=_process_count(rows)) as decoders,
                ThreadPoolExecutor(1, "catalog") as catalog_pool,
            ):
                lookup: _Lookup = partial(_look_up, ctx, find_labels)
                batches = fetching.batches(ctx, head.prefix, rows, limits)
                decoded = _decode_batches(batches, decoders, lambda hashes: catalog_pool.submit(lookup, hashes))
                _write(buffer, _stage(staging_tar, small, chunk, decoded))
            staging_tar.close()
            if staging_tar.size:
                ctx.store.put_file(staging_tars.key(drop_id, chunk), staging_tar.path, "application/x-tar")
                ctx.store.put(thumbnails.key(drop_id, chunk), thumbnails.encode(small))
        ctx.store.put(chunk_key(drop_id, chunk), buffer.getvalue())
    return len(rows)


def _check_archives(ctx: Context, head: entries.Head, rows: Sequence[dict[str, Any]]) -> None:
    """Mark rows of archives that were replaced since the claim, where the frozen positions are no longer valid."""
    for archive in sorted({row["archive"] for row in rows if row["archive"]}):
        try:
            unchanged = ctx.labels.info(head.prefix + archive).etag == head.archives[archive]
        except NotFoundError:
            unchanged = False
        for row in rows:
            if row["archive"] == archive and not unchanged:
                row["problem"] = row["problem"] or f"`{archive}` was replaced or removed after the drop was claimed"


def _process_count(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """The number of decoders that is worth starting; None: one per core."""
    return 1 if sum(row["size"] or 0 for row in rows) < _SMALL_IMAGE * len(rows) else None


def _stage(
    staging_tar: StagingTar,
    small: list[Mapping[str, Any]],
    chunk: int,
    decoded: Iterable[Iterable[tuple[dict[str, Any], bytes | None]]],
) -> Iterator[dict[str, Any]]:
    """Yield the completed rows; append usable images to the staging tar and their thumbnails to `small`."""
    for row, data in chain.from_iterable(decoded):
        row |= {"chunk": chunk, "packed": None}
        if data and row["problem"] is None:
            row["packed"] = staging_tar.add(row["sha256"], row["format"], data)
            pixels = base64.b64decode(row["thumbnail"])
            small.append({"packed": row["packed"], "sha256": row["sha256"], "thumbnail": pixels})
        yield row


def _write(buffer: IO[bytes], rows: Iterator[dict[str, Any]]) -> None:
    with pq.ParquetWriter(buffer, SCHEMA) as writer:
        while group := list(islice(rows, _ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, SCHEMA))


def read_rows(ctx: Context, drop_id: str) -> pa.Table:
    """The rows of all chunks.

    Raises:
        NotFoundError: a chunk has not been inspected.
    """
    tables = [
        pq.ParquetFile(io.BytesIO(ctx.store.get(chunk_key(drop_id, chunk)))).read()
        for chunk in range(chunk_count(ctx, drop_id))
    ]
    return pa.concat_tables(tables)


@dataclass(frozen=True)
class _Known:
    """What the catalog knows of a batch: the labels of stored samples by SHA-256, and what was erased."""

    labels: dict[str, str]
    erased: set[str]


def _look_up(ctx: Context, find_labels: LabelLookup | None, hashes: Sequence[str]) -> _Known:
    if find_labels is not None:  # a dry run, without catalog
        return _Known(find_labels(hashes), set())
    with transaction(ctx.engine) as connection:
        erased = erasures.erased(connection, hashes)
    return _Known(existing_samples.labels(ctx.engine, hashes), erased)


@dataclass(frozen=True)
class _PendingBatch:
    """A batch in progress: the decoders' results for its images, and what the catalog knows of them."""

    batch: FetchedBatch
    results: "list[Future[list[DecodeResult]]]"
    known: "Future[_Known]"


def _decode_batches(
    batches: Iterable[FetchedBatch], decoders: DecoderPool, look_up: "Callable[[list[str]], Future[_Known]]"
) -> Iterator[list[tuple[dict[str, Any], bytes | None]]]:
    """The rows of each batch with their bytes, while the next batch is decoded and the one after it is fetched."""
    pending: deque[_PendingBatch] = deque()
    for batch in batches:
        data = list(batch.images.values())
        results = [decoders.submit(data[i : i + _DECODE_BATCH]) for i in range(0, len(data), _DECODE_BATCH)]
        pending.append(_PendingBatch(batch, results, look_up(sorted({batch.rows[i]["sha256"] for i in batch.images}))))
        if len(pending) > 1:
            yield _rows(pending.popleft())
    while pending:
        yield _rows(pending.popleft())


def _rows(pending: _PendingBatch) -> list[tuple[dict[str, Any], bytes | None]]:
    batch, known = pending.batch, pending.known.result()
    results = (result for future in pending.results for result in future.result())
    for i, result in zip(batch.images, results, strict=True):
        row = batch.rows[i]
        problem = quarantine.ERASED if row["sha256"] in known.erased else row["problem"] or result.get("problem")
        batch.rows[i] = row | result | {"problem": problem, "known": known.labels.get(row["sha256"])}
    return [(row, batch.images.get(i)) for i, row in enumerate(batch.rows)]
