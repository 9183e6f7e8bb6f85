"""Fetches a drop's images in batches, while those before are worked on."""

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

_BATCH: Final = 256  # images fetched at once, fewer when they are large
_BATCH_BYTES: Final = 32_000_000


@dataclass(frozen=True)
class Fetched:
    """Rows of a batch, now with `sha256` and `bytes` or a `problem`, and the bytes of those that have any."""

    rows: list[dict[str, Any]]
    images: dict[int, bytes]


@dataclass(frozen=True)
class _Asked:
    """Rows of a batch, the positions of those that are on their way, and what comes of them."""

    rows: list[dict[str, Any]]
    wanted: list[int]
    found: Iterator[source.Found]


def batches(ctx: Context, prefix: str, rows: Sequence[dict[str, Any]], limits: Limits) -> Iterator[Fetched]:
    """All rows (`ml.intake.entries`), in order. One batch is fetched ahead; memory holds two.

    Raises:
        UnavailableError: the object store failed.
    """
    waiting: deque[_Asked] = deque()
    with object_store.readers() as readers:
        for batch in _batches(rows):
            waiting.append(_ask(ctx, prefix, batch, limits, readers))
            if len(waiting) > 1:
                yield _fetched(waiting.popleft())
        while waiting:
            yield _fetched(waiting.popleft())


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


def _ask(ctx: Context, prefix: str, rows: list[dict[str, Any]], limits: Limits, readers: Executor) -> _Asked:
    wanted: list[int] = []
    for i, row in enumerate(rows):
        if row["size"] is None or (row["problem"] and row["archive"]):
            continue
        if row["size"] <= limits.max_bytes:
            wanted.append(i)
        elif not row["problem"]:
            row["problem"] = f"{row['size']} bytes, at most {limits.max_bytes} are accepted"
    return _Asked(rows, wanted, source.images(ctx, prefix, [rows[i] for i in wanted], readers))


def _fetched(asked: _Asked) -> Fetched:
    rows, images = asked.rows, dict[int, bytes]()
    for i, data in zip(asked.wanted, asked.found, strict=True):
        if isinstance(data, UnavailableError):
            raise data
        if isinstance(data, Exception):
            rows[i]["problem"] = _words(rows[i], data)
        else:
            images[i] = data
            rows[i] |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    return Fetched(rows, images)


def _words(row: Mapping[str, Any], error: Exception) -> str:
    if isinstance(error, InvalidInputError):
        return str(error)
    dots = {".", ".."} & set(row["key"].split("/"))
    return "the file's name has a part that is only dots" if dots else "removed from the drop while it was read"
