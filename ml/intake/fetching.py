"""Fetches a drop's images in batches, one batch ahead of the consumer."""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Final

from ml.context import Context
from ml.errors import InvalidInputError, UnavailableError
from ml.imaging.images import Limits
from ml.intake import source
from ml.storage import object_store

_BATCH: Final = 256  # images per batch; fewer if they are large
_BATCH_BYTES: Final = 32_000_000


@dataclass(frozen=True)
class FetchedBatch:
    """Rows of a batch, with `sha256` and `bytes` or a `problem` added, and the images by index of their row."""

    rows: list[dict[str, Any]]
    images: dict[int, bytes]


@dataclass(frozen=True)
class _PendingBatch:
    """Rows of a batch, the indices of those that are being fetched, and an iterator over the results."""

    rows: list[dict[str, Any]]
    indices: list[int]
    results: Iterator[source.ImageResult]


def batches(ctx: Context, prefix: str, rows: Sequence[dict[str, Any]], limits: Limits) -> Iterator[FetchedBatch]:
    """All rows (`ml.intake.entries`), in order. One batch is fetched ahead; memory holds two.

    Raises:
        UnavailableError: the object store failed.
    """
    pending: deque[_PendingBatch] = deque()
    with object_store.reader_pool() as pool:
        for batch in _batches(rows):
            pending.append(_request(ctx, prefix, batch, limits, pool))
            if len(pending) > 1:
                yield _collect(pending.popleft())
        while pending:
            yield _collect(pending.popleft())


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    batch_bytes = 0
    for row in rows:
        size = row["size"] or 0
        if batch and (len(batch) == _BATCH or batch_bytes + size > _BATCH_BYTES):
            yield batch
            batch, batch_bytes = [], 0
        batch.append(row)
        batch_bytes += size
    if batch:
        yield batch


def _request(ctx: Context, prefix: str, rows: list[dict[str, Any]], limits: Limits, pool: Executor) -> _PendingBatch:
    indices: list[int] = []
    for i, row in enumerate(rows):
        if row["size"] is None or (row["problem"] and row["archive"]):
            continue
        if row["size"] <= limits.max_bytes:
            indices.append(i)
        elif not row["problem"]:
            row["problem"] = f"{row['size']} bytes, at most {limits.max_bytes} are accepted"
    return _PendingBatch(rows, indices, source.images(ctx, prefix, [rows[i] for i in indices], pool))


def _collect(pending: _PendingBatch) -> FetchedBatch:
    rows, images = pending.rows, dict[int, bytes]()
    for i, data in zip(pending.indices, pending.results, strict=True):
        if isinstance(data, UnavailableError):
            raise data
        if isinstance(data, Exception):
            rows[i]["problem"] = _describe(rows[i], data)
        else:
            images[i] = data
            rows[i] |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    return FetchedBatch(rows, images)


def _describe(row: Mapping[str, Any], error: Exception) -> str:
    if isinstance(error, InvalidInputError):
        return str(error)
    has_dots = {".", ".."} & set(row["key"].split("/"))
    return "the file's name has a part that is only dots" if has_dots else "removed from the drop while it was read"
