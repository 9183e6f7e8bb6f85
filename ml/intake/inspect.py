"""Looks at every image of a drop: fetched, hashed, decoded, measured. Chunks are independent tasks."""

import hashlib
import io
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ml.catalog import cycles
from ml.context import Context
from ml.errors import NotFoundError, UnavailableError
from ml.images import Limits
from ml.intake import entries, listing, packs
from ml.intake.decoding import Answer, Decoders
from ml.intake.formats import Entry
from ml.intake.packs import Pack
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
        ("sharpness", pa.float64()),
        ("entropy", pa.float64()),
        ("fingerprint", pa.string()),
        ("phash_high", pa.int32()),
        ("phash_low", pa.int32()),
        ("chunk", pa.int32()),
        ("packed", pa.int64()),  # where in the chunk's pack its bytes are; null: they are not, see `packs`
    ]
)
_BATCH = 256  # images fetched at once, fewer when they are large
_PIECE = 64  # images sent to a decoder at once
_BATCH_BYTES = 32_000_000
_SMALL = 8192  # bytes of an image that takes longer to fetch than to decode, so that one decoder keeps up


def chunk_count(ctx: Context, drop_id: str) -> int:
    """How many chunks `inspect_chunk` must be called for."""
    return math.ceil(entries.count(ctx, drop_id) / ctx.settings.inspect_chunk)


def chunk_key(drop_id: str, chunk: int) -> str:
    return f"drops/{drop_id}/inspected/{chunk:06}.parquet"


def inspect_chunk(ctx: Context, drop_id: str, chunk: int, *, recorded: bool = True) -> int:
    """Inspect one chunk and write its rows (`SCHEMA`) to the store; returns how many.

    What is wrong with an image stands in its row's `problem`; it never ends the task.

    Args:
        recorded: the cycle's diary hears how long it took; a rehearsal has no cycle.

    Raises:
        UnavailableError: the object store failed; the chunk is inspected again on retry.
    """
    size = ctx.settings.inspect_chunk
    limits = Limits(ctx.settings.max_image_bytes, ctx.settings.max_image_pixels)
    with cycles.stage(ctx.engine, drop_id, "inspect") if recorded else nullcontext():
        chosen = entries.read(ctx, drop_id, chunk * size, size)
        frozen = listing.read_some(ctx, drop_id, {e.key for e in chosen})
        known = {f.key: f for f in frozen.files}
        fetched = (_fetch(ctx, frozen.prefix, batch, known, limits) for batch in _batches(chosen, known))
        buffer, pack = io.BytesIO(), Pack()
        with Decoders(limits, processes=_processes(known)) as decoders, pq.ParquetWriter(buffer, SCHEMA) as writer:
            for rows in _decoded(fetched, decoders):
                table = [r | {"chunk": chunk, "packed": _packed(pack, r, data)} for r, data in rows]
                writer.write_table(pa.Table.from_pylist(table, SCHEMA))
        if pack.data:
            ctx.store.put(packs.key(drop_id, chunk), bytes(pack.data))
        ctx.store.put(chunk_key(drop_id, chunk), buffer.getvalue())
    return len(chosen)


def _processes(known: Mapping[str, ObjectInfo]) -> int | None:
    """How many decoders are worth their start; None: one a core."""
    return 1 if sum(f.size for f in known.values()) < _SMALL * len(known) else None


def _packed(pack: Pack, row: Mapping[str, Any], data: bytes | None) -> int | None:
    return pack.add(data) if data and row["problem"] is None else None


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


@dataclass(frozen=True)
class _Fetched:
    """Rows of a batch, and the bytes of those that have any."""

    rows: list[dict[str, Any]]
    images: dict[int, bytes]


def _fetch(
    ctx: Context, prefix: str, chosen: Sequence[Entry], known: dict[str, ObjectInfo], limits: Limits
) -> _Fetched:
    batch = _Fetched([vars(e) | {"others": [vars(o) for o in e.others]} for e in chosen], {})
    wanted: list[int] = []
    for i, entry in enumerate(chosen):
        info = known.get(entry.key)
        if info and info.size <= limits.max_bytes:
            wanted.append(i)
        elif info and not entry.problem:
            batch.rows[i]["problem"] = f"{info.size} bytes, at most {limits.max_bytes} are accepted"
    for i, data in zip(wanted, ctx.labels.get_many(prefix + chosen[i].key for i in wanted), strict=True):
        if isinstance(data, UnavailableError):
            raise data
        if isinstance(data, NotFoundError):
            dots = {".", ".."} & set(chosen[i].key.split("/"))
            words = (
                "the file's name has a part that is only dots" if dots else "removed from the drop while it was read"
            )
            batch.rows[i]["problem"] = words
        else:
            batch.images[i] = data
            batch.rows[i] |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    return batch


def _decoded(fetched: Iterable[_Fetched], decoders: Decoders) -> Iterator[list[tuple[dict[str, Any], bytes | None]]]:
    """The rows of each batch with their bytes, while the decoders work on the next ones and others are fetched."""
    under_way: deque[tuple[_Fetched, list[Future[list[Answer]]]]] = deque()
    for batch in fetched:
        data = list(batch.images.values())
        under_way.append((batch, [decoders.submit(data[i : i + _PIECE]) for i in range(0, len(data), _PIECE)]))
        if len(under_way) > 1:
            yield _rows(*under_way.popleft())
    while under_way:
        yield _rows(*under_way.popleft())


def _rows(batch: _Fetched, pieces: "list[Future[list[Answer]]]") -> list[tuple[dict[str, Any], bytes | None]]:
    answers = (answer for piece in pieces for answer in piece.result())
    for i, answer in zip(batch.images, answers, strict=True):
        row = batch.rows[i]
        batch.rows[i] = row | answer | {"problem": row["problem"] or answer.get("problem")}
    return [(row, batch.images.get(i)) for i, row in enumerate(batch.rows)]
