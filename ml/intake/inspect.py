"""Looks at every image of a drop: fetched, hashed, decoded, measured. Chunks are independent tasks."""

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

from ml.catalog import cycles
from ml.catalog import existing_samples as stored
from ml.context import Context
from ml.errors import NotFoundError
from ml.imaging.images import Limits
from ml.imaging.sandbox import Answer, Decoders
from ml.intake import entries, fetching, staging_tars
from ml.intake.fetching import Fetched
from ml.intake.staging_tars import StagingTar

Known = Callable[[Sequence[str]], dict[str, str]]
"""SHA-256s to the labels of those that are stored."""

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
        ("known", pa.string()),  # the label of the sample that it is already, if it is one
        ("packed", pa.int64()),  # where in the chunk's pack its member is; null: it is not sound
    ]
)
_PIECE = 64  # images sent to a decoder at once
_GROUP = 4096  # rows written together: each time costs as much as hundreds of rows
_SMALL = 8192  # bytes of an image that takes longer to fetch than to decode, so that one decoder keeps up


def chunk_count(ctx: Context, drop_id: str) -> int:
    """How many chunks `inspect_chunk` must be called for."""
    return entries.head(ctx, drop_id).pages


def chunk_key(drop_id: str, chunk: int) -> str:
    return f"drops/{drop_id}/inspected/{chunk:06}.parquet"


def inspect_chunk(ctx: Context, drop_id: str, chunk: int, known: Known | None = None) -> int:
    """Inspect one chunk and write its rows (`SCHEMA`) to the store; returns how many.

    What is wrong with an image stands in its row's `problem`; it never ends the task.

    Args:
        known: of a rehearsal, which has no cycle either that would be told how long it took; by default the catalog.

    Raises:
        UnavailableError: the object store or the catalog failed; the chunk is inspected again on retry.
    """
    limits = Limits(ctx.settings.max_image_bytes, ctx.settings.max_image_pixels)
    with cycles.stage(ctx.engine, drop_id, "inspect") if known is None else nullcontext():
        head, chosen = entries.head(ctx, drop_id), entries.read(ctx, drop_id, chunk)
        _check_archives(ctx, head, chosen)
        with TemporaryDirectory() as folder:
            buffer, pack = io.BytesIO(), StagingTar(Path(folder) / "pack.tar")
            with (
                Decoders(limits, processes=_processes(chosen)) as decoders,
                ThreadPoolExecutor(1, "asking") as asking,
            ):
                ask: Known = known or partial(stored.labels, ctx.engine)
                batches = fetching.batches(ctx, head.prefix, chosen, limits)
                looked_at = _looked_at(batches, decoders, lambda hashes: asking.submit(ask, hashes))
                _write(buffer, _packed(pack, chunk, looked_at))
            pack.close()
            if pack.size:
                ctx.store.put_file(staging_tars.key(drop_id, chunk), pack.path, "application/x-tar")
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


def _packed(
    pack: StagingTar, chunk: int, looked_at: Iterable[Iterable[tuple[dict[str, Any], bytes | None]]]
) -> Iterator[dict[str, Any]]:
    """The rows, whole, while what is sound goes into the pack."""
    for row, data in chain.from_iterable(looked_at):
        row |= {"chunk": chunk, "packed": None}
        if data and row["problem"] is None:
            row["packed"] = pack.add(row["sha256"], row["format"], data)
        yield row


def _write(buffer: IO[bytes], rows: Iterator[dict[str, Any]]) -> None:
    with pq.ParquetWriter(buffer, SCHEMA) as writer:
        while group := list(islice(rows, _GROUP)):
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
class _Work:
    """A batch under way: what the decoders see in its images, and which of them are stored already."""

    batch: Fetched
    pieces: "list[Future[list[Answer]]]"
    known: "Future[dict[str, str]]"


def _looked_at(
    fetched: Iterable[Fetched], decoders: Decoders, ask: "Callable[[list[str]], Future[dict[str, str]]]"
) -> Iterator[list[tuple[dict[str, Any], bytes | None]]]:
    """The rows of each batch with their bytes, while the decoders work on the next ones and others are fetched."""
    under_way: deque[_Work] = deque()
    for batch in fetched:
        data = list(batch.images.values())
        pieces = [decoders.submit(data[i : i + _PIECE]) for i in range(0, len(data), _PIECE)]
        under_way.append(_Work(batch, pieces, ask(sorted({batch.rows[i]["sha256"] for i in batch.images}))))
        if len(under_way) > 1:
            yield _rows(under_way.popleft())
    while under_way:
        yield _rows(under_way.popleft())


def _rows(work: _Work) -> list[tuple[dict[str, Any], bytes | None]]:
    batch, known = work.batch, work.known.result()
    answers = (answer for piece in work.pieces for answer in piece.result())
    for i, answer in zip(batch.images, answers, strict=True):
        row = batch.rows[i]
        batch.rows[i] = (
            row | answer | {"problem": row["problem"] or answer.get("problem"), "known": known.get(row["sha256"])}
        )
    return [(row, batch.images.get(i)) for i, row in enumerate(batch.rows)]
