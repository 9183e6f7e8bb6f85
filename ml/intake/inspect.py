"""Looks at every image of a drop: fetched, hashed, decoded, measured. Chunks are independent tasks."""

import hashlib
import io
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ml import images
from ml.catalog import cycles
from ml.context import Context
from ml.errors import ImageRejectedError, NotFoundError, UnavailableError
from ml.images import Limits
from ml.intake import entries, listing
from ml.intake.formats import Entry
from ml.objects import ObjectInfo

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
        ("fingerprint", pa.string()),
        ("phash_high", pa.int32()),
        ("phash_low", pa.int32()),
    ]
)
_BATCH = 64  # images held in memory at once, fewer when they are large
_BATCH_BYTES = 64_000_000


def chunk_count(ctx: Context, drop_id: str) -> int:
    """How many chunks `inspect_chunk` must be called for."""
    return math.ceil(entries.count(ctx, drop_id) / ctx.settings.inspect_chunk)


def chunk_key(drop_id: str, chunk: int) -> str:
    return f"drops/{drop_id}/inspected/{chunk:06}.parquet"


def inspect_chunk(ctx: Context, drop_id: str, chunk: int) -> int:
    """Inspect one chunk and write its rows (`SCHEMA`) to the store; returns how many.

    What is wrong with an image stands in its row's `problem`; it never ends the task.

    Raises:
        UnavailableError: the object store failed; the chunk is inspected again on retry.
    """
    size = ctx.settings.inspect_chunk
    with cycles.stage(ctx.engine, drop_id, "inspect"):
        frozen = listing.read(ctx, drop_id)
        known = {f.key: f for f in frozen.files}
        chosen = entries.read(ctx, drop_id, chunk * size, size)
        buffer = io.BytesIO()
        with pq.ParquetWriter(buffer, SCHEMA) as writer:
            for batch in _batches(chosen, known):
                rows = list(_rows(ctx, frozen.prefix, batch, known))
                writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
        ctx.store.put(chunk_key(drop_id, chunk), buffer.getvalue())
    return len(chosen)


def read_rows(ctx: Context, drop_id: str) -> pa.Table:
    """The rows of all chunks.

    Raises:
        NotFoundError: a chunk has not been inspected.
    """
    tables = [
        pq.read_table(io.BytesIO(ctx.store.get(chunk_key(drop_id, chunk))))
        for chunk in range(chunk_count(ctx, drop_id))
    ]
    return pa.concat_tables(tables)


def _batches(chosen: Sequence[Entry], known: dict[str, ObjectInfo]) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    held = 0
    for entry in chosen:
        size = known[entry.key].size if entry.key in known else 0
        if batch and (len(batch) == _BATCH or held + size > _BATCH_BYTES):
            yield batch
            batch, held = [], 0
        batch.append(entry)
        held += size
    if batch:
        yield batch


def _rows(ctx: Context, prefix: str, chosen: Sequence[Entry], known: dict[str, ObjectInfo]) -> Iterator[dict[str, Any]]:
    limits = Limits(ctx.settings.max_image_bytes, ctx.settings.max_image_pixels)
    fetchable = [e for e in chosen if e.key in known and known[e.key].size <= limits.max_bytes]
    fetched = dict(
        zip(
            (e.key for e in fetchable),
            ctx.labels.get_many(prefix + e.key for e in fetchable),
            strict=True,
        )
    )
    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(lambda e: _row(e, known.get(e.key), fetched.get(e.key), limits), chosen)


def _row(
    entry: Entry, info: ObjectInfo | None, data: bytes | UnavailableError | NotFoundError | None, limits: Limits
) -> dict[str, Any]:
    row: dict[str, Any] = asdict(entry)
    if isinstance(data, UnavailableError):
        raise data
    if isinstance(data, NotFoundError):
        return row | {"problem": "removed from the drop while it was read"}
    if data is None:
        too_large = f"{info.size} bytes, at most {limits.max_bytes} are accepted" if info else None
        return row | {"problem": entry.problem or too_large}
    row |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    try:
        features = asdict(images.inspect(data, limits))
    except ImageRejectedError as error:
        return row | {"problem": entry.problem or str(error).replace("\0", "")}
    return row | features
