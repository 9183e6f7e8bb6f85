"""Parts of large objects: what lies close together is asked for at once."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from ml.errors import NotFoundError, UnavailableError
from ml.storage.object_store import ObjectStore

_GAP: Final = 65_536  # bytes that are rather read than asked around
_READ: Final = 32_000_000  # bytes read at once
_THREADS: Final = 4


@dataclass(frozen=True, slots=True)
class ByteRange:
    """`length` bytes from `offset` of the object `key`."""

    key: str
    offset: int
    length: int


def read(store: ObjectStore, parts: Sequence[ByteRange]) -> Iterator[memoryview | UnavailableError | NotFoundError]:
    """Each part's bytes, in order; an error stands in the place of one that has it.

    Memory holds all parts, so give it as many as may be held.
    """
    found: dict[int, memoryview | UnavailableError | NotFoundError] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for piece in pool.map(lambda run: _run(store, parts, run), _runs(parts)):
            found |= piece
    return (found[i] for i in range(len(parts)))


def stream(store: ObjectStore, parts: Iterable[ByteRange]) -> Iterator[memoryview]:
    """Each part's bytes, in order; memory holds some 32 MB of them, and at least one.

    Raises:
        NotFoundError: an object is gone.
        UnavailableError: the object store failed.
    """
    for batch in _batches(parts):
        for data in read(store, batch):
            if isinstance(data, Exception):
                raise data
            yield data


def _batches(parts: Iterable[ByteRange]) -> Iterator[list[ByteRange]]:
    batch: list[ByteRange] = []
    held = 0
    for part in parts:
        if batch and held + part.length > _READ:
            yield batch
            batch, held = [], 0
        batch.append(part)
        held += part.length
    if batch:
        yield batch


def _runs(parts: Sequence[ByteRange]) -> list[list[int]]:
    runs: list[list[int]] = []
    begin = end = 0
    for i in sorted(range(len(parts)), key=lambda i: (parts[i].key, parts[i].offset)):
        part = parts[i]
        same = bool(runs) and parts[runs[-1][0]].key == part.key
        if same and part.offset - end <= _GAP and part.offset + part.length - begin <= _READ:
            runs[-1].append(i)
        else:
            runs.append([i])
            begin = end = part.offset
        end = max(end, part.offset + part.length)
    return runs


def _run(
    store: ObjectStore, parts: Sequence[ByteRange], run: Sequence[int]
) -> dict[int, memoryview | UnavailableError | NotFoundError]:
    key, begin = parts[run[0]].key, parts[run[0]].offset
    end = max(parts[i].offset + parts[i].length for i in run)
    try:
        data = memoryview(store.get(key, begin, end - begin) if end > begin else b"")
    except (UnavailableError, NotFoundError) as error:
        return dict.fromkeys(run, error)
    return {i: data[parts[i].offset - begin : parts[i].offset - begin + parts[i].length] for i in run}
