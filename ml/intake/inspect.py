"""Looks at every image of a drop: fetched, hashed, decoded, measured. Chunks are independent tasks."""

import hashlib
import io
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ml.catalog import cycles
from ml.context import Context
from ml.errors import InvalidInputError, NotFoundError, UnavailableError
from ml.images import Limits
from ml.intake import entries, packs, source
from ml.intake.decoding import Answer, Decoders
from ml.intake.packs import Pack

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
        ("packed", pa.int64()),  # where in the chunk's pack its member is; null: it is not sound
    ]
)
_BATCH = 256  # images fetched at once, fewer when they are large
_PIECE = 64  # images sent to a decoder at once
_BATCH_BYTES = 32_000_000
_SMALL = 8192  # bytes of an image that takes longer to fetch than to decode, so that one decoder keeps up


def chunk_count(ctx: Context, drop_id: str) -> int:
    """How many chunks `inspect_chunk` must be called for."""
    return entries.head(ctx, drop_id).pages


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
    limits = Limits(ctx.settings.max_image_bytes, ctx.settings.max_image_pixels)
    with cycles.stage(ctx.engine, drop_id, "inspect") if recorded else nullcontext():
        head, chosen = entries.head(ctx, drop_id), entries.read(ctx, drop_id, chunk)
        _check_archives(ctx, head, chosen)
        fetched = (_fetch(ctx, head.prefix, batch, limits) for batch in _batches(chosen))
        with TemporaryDirectory() as folder:
            buffer, pack = io.BytesIO(), Pack(Path(folder) / "pack.tar")
            with Decoders(limits, processes=_processes(chosen)) as decoders, pq.ParquetWriter(buffer, SCHEMA) as writer:
                for rows in _decoded(fetched, decoders):
                    table = [r | {"chunk": chunk, "packed": _packed(pack, r, data)} for r, data in rows]
                    writer.write_table(pa.Table.from_pylist(table, SCHEMA))
            pack.close()
            if pack.size:
                ctx.store.put_file(packs.key(drop_id, chunk), pack.path, "application/x-tar")
        ctx.store.put(chunk_key(drop_id, chunk), buffer.getvalue())
    return len(chosen)


def _check_archives(ctx: Context, head: entries.Head, rows: Sequence[dict[str, Any]]) -> None:
    """An archive that was replaced since the claim holds other images elsewhere."""
    for archive in sorted({row["archive"] for row in rows if row["archive"]}):
        try:
            same = ctx.labels.info(head.prefix + archive).etag == head.archives[archive]
        except NotFoundError:
            same = False
        for row in rows:
            if row["archive"] == archive and not same:
                row["problem"] = row["problem"] or f"`{archive}` was replaced or removed after the drop was claimed"


def _processes(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """How many decoders are worth their start; None: one a core."""
    return 1 if sum(row["size"] or 0 for row in rows) < _SMALL * len(rows) else None


def _packed(pack: Pack, row: Mapping[str, Any], data: bytes | None) -> int | None:
    return pack.add(row["sha256"], row["format"], data) if data and row["problem"] is None else None


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


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    held = 0
    for row in rows:
        size = row["size"] or 0
        if batch and (len(batch) == _BATCH or held + size > _BATCH_BYTES):
            yield batch
            batch, held = [], 0
        batch.append(row)
        held += size
    if batch:
        yield batch


@dataclass(frozen=True)
class _Fetched:
    """Rows of a batch, and the bytes of those that have any."""

    rows: list[dict[str, Any]]
    images: dict[int, bytes]


def _fetch(ctx: Context, prefix: str, rows: list[dict[str, Any]], limits: Limits) -> _Fetched:
    batch = _Fetched(rows, {})
    wanted: list[int] = []
    for i, row in enumerate(rows):
        if row["size"] is None or (row["problem"] and row["archive"]):
            continue
        if row["size"] <= limits.max_bytes:
            wanted.append(i)
        elif not row["problem"]:
            row["problem"] = f"{row['size']} bytes, at most {limits.max_bytes} are accepted"
    for i, data in zip(wanted, source.images(ctx, prefix, [rows[i] for i in wanted]), strict=True):
        if isinstance(data, UnavailableError):
            raise data
        if isinstance(data, Exception):
            rows[i]["problem"] = _words(rows[i], data)
        else:
            batch.images[i] = data
            rows[i] |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    return batch


def _words(row: Mapping[str, Any], error: Exception) -> str:
    if isinstance(error, InvalidInputError):
        return str(error)
    dots = {".", ".."} & set(row["key"].split("/"))
    return "the file's name has a part that is only dots" if dots else "removed from the drop while it was read"


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
