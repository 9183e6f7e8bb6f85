"""Reads byte ranges of large objects; ranges that lie close together are fetched in one request."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from ml.errors import NotFoundError, UnavailableError
from ml.storage.object_store import ObjectStore

_MAX_GAP: Final = 65_536  # bytes; reading a smaller gap is cheaper than another request
_MAX_READ: Final = 32_000_000  # bytes per request
_THREADS: Final = 4


@dataclass(frozen=True, slots=True)
class ByteRange:
    """`length` bytes from `offset` of the object `key`."""

    key: str
    offset: int
    length: int


def read(store: ObjectStore, ranges: Sequence[ByteRange]) -> Iterator[memoryview | UnavailableError | NotFoundError]:
    """The bytes of each range, in order; a range that cannot be read yields its error instead.

    Memory holds all of them.
    """
    results: dict[int, memoryview | UnavailableError | NotFoundError] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for group_results in pool.map(lambda group: _read_group(store, ranges, group), _group(ranges)):
            results |= group_results
    return (results[i] for i in range(len(ranges)))


def stream(store: ObjectStore, ranges: Iterable[ByteRange]) -> Iterator[memoryview]:
    """The bytes of each range, in order; memory holds about 32 MB of them, and at least one.

    Raises:
        NotFoundError: an object does not exist.
        UnavailableError: the object store failed.
    """
    for batch in _batches(ranges):
        for data in read(store, batch):
            if isinstance(data, Exception):
                raise data
            yield data


def _batches(ranges: Iterable[ByteRange]) -> Iterator[list[ByteRange]]:
    batch: list[ByteRange] = []
    batch_bytes = 0
    for byte_range in ranges:
        if batch and batch_bytes + byte_range.length > _MAX_READ:
            yield batch
            batch, batch_bytes = [], 0
        batch.append(byte_range)
        batch_bytes += byte_range.length
    if batch:
        yield batch


def _group(ranges: Sequence[ByteRange]) -> list[list[int]]:
    """Indices of the ranges that are fetched in one request."""
    groups: list[list[int]] = []
    start = end = 0
    for i in sorted(range(len(ranges)), key=lambda i: (ranges[i].key, ranges[i].offset)):
        current = ranges[i]
        same_object = bool(groups) and ranges[groups[-1][0]].key == current.key
        if same_object and current.offset - end <= _MAX_GAP and current.offset + current.length - start <= _MAX_READ:
            groups[-1].append(i)
        else:
            groups.append([i])
            start = end = current.offset
        end = max(end, current.offset + current.length)
    return groups


def _read_group(
    store: ObjectStore, ranges: Sequence[ByteRange], group: Sequence[int]
) -> dict[int, memoryview | UnavailableError | NotFoundError]:
    key, start = ranges[group[0]].key, ranges[group[0]].offset
    end = max(ranges[i].offset + ranges[i].length for i in group)
    try:
        data = memoryview(store.get(key, start, end - start) if end > start else b"")
    except (UnavailableError, NotFoundError) as error:
        return dict.fromkeys(group, error)
    return {i: data[ranges[i].offset - start : ranges[i].offset - start + ranges[i].length] for i in group}
