"""Segments: an uncompressed tar of images and a Parquet index beside it, named by their content.

The same samples in the same order give the same bytes, so writing a segment twice changes nothing.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from ml.storage import range_reads, tar_members
from ml.storage.object_store import ObjectStore
from ml.storage.range_reads import ByteRange

INDEX_SCHEMA: Final = pa.schema(
    [
        ("sha256", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("group_id", pa.string()),
        ("drop_id", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
        ("grey", pa.bool_()),
        ("brightness", pa.float64()),
        ("contrast", pa.float64()),
    ]
)
WIDE_SCHEMA: Final = pa.schema(
    [*INDEX_SCHEMA, ("phash_high", pa.int32()), ("phash_low", pa.int32()), ("subject", pa.string())]
)
"""What the catalog keeps of a sample beside the index."""
_PAGE: Final = 5000  # rows that are held as dicts
_BUFFER: Final = 1_048_576
_NAME: Final = "segment.tar"

Sample = tuple[dict[str, Any], bytes | memoryview]
"""A row with the names of `WIDE_SCHEMA`, but for offset, and the image as `members.encode` gives it."""


@dataclass(frozen=True)
class Segment:
    """A stored segment."""

    id: str
    tar_key: str
    index_key: str
    samples: int
    bytes: int
    tar_sha256: str
    index_sha256: str


def tar_key(segment_id: str) -> str:
    return f"segments/{segment_id}.tar"


def index_key(segment_id: str) -> str:
    return f"segments/{segment_id}.parquet"


class Uploads:
    """Stores segments while the next thing is done; use it in a `with` statement, which waits for them in the end."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(1, "segments")
        self._under_way: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._pool.shutdown(cancel_futures=error is not None)
        if error is None:
            self.wait()

    def add(self, segment: Segment, index: bytes, folder: TemporaryDirectory[str]) -> None:
        """Store the tar in `folder`, which is removed then, and the index; one waits while another is sent."""
        self.wait(1)
        self._under_way.append(self._pool.submit(self._send, segment, index, folder))

    def wait(self, most: int = 0) -> None:
        """Until no more than `most` are under way; raises what befell one."""
        while len(self._under_way) > most:
            self._under_way.pop(0).result()

    def _send(self, segment: Segment, index: bytes, folder: TemporaryDirectory[str]) -> None:
        with folder as path:
            self._store.put_file(segment.tar_key, Path(path) / _NAME, "application/x-tar")
            self._store.put(segment.index_key, index)


def write(uploads: Uploads, samples: Iterable[Sample], limit: int) -> Iterator[tuple[Segment, pa.Table]]:
    """StagingTar samples into segments of about `limit` bytes; each with its rows (`WIDE_SCHEMA`).

    Memory holds a page of rows, which get their `offset`; the tar grows in a temporary file.
    """
    iterator = iter(samples)
    first = next(iterator, None)
    while first is not None:
        folder = TemporaryDirectory(prefix="evergreen-segment-")
        growing = _Growing(Path(folder.name) / _NAME)
        with growing.file:
            while first is not None and (not growing.size or growing.size < limit):
                growing.add(*first)
                first = next(iterator, None)
            segment, index, rows = growing.close()
        uploads.add(segment, index, folder)
        yield segment, rows


def samples(store: ObjectStore, segment_id: str, rows: Sequence[dict[str, Any]]) -> Iterator[Sample]:
    """Samples of a stored segment as `write` takes them; `rows` are those of its index that are wanted."""
    name = tar_key(segment_id)
    parts = [ByteRange(name, r["offset"] - tar_members.HEADER, tar_members.span(r["size"])) for r in rows]
    return zip(rows, range_reads.stream(store, parts), strict=True)


def pack(samples: Iterable[Sample], folder: Path) -> str:
    """The id of the one segment that the samples make, without storing it: a segment rebuilt has its own id."""
    growing = _Growing(folder / _NAME)
    with growing.file:
        for row, member in samples:
            growing.add(row, member)
        return growing.close()[0].id


def read_index(data: bytes) -> list[dict[str, Any]]:
    """The index rows of a segment."""
    rows: list[dict[str, Any]] = pq.ParquetFile(io.BytesIO(data)).read().to_pylist()
    return rows


class _Growing:
    """A segment being written."""

    def __init__(self, path: Path) -> None:
        self.file: IO[bytes] = path.open("wb", _BUFFER)
        self.size = 0
        self._digest = hashlib.sha256()
        self._rows: list[dict[str, Any]] = []
        self._pages: list[pa.Table] = []

    def add(self, row: dict[str, Any], member: bytes | memoryview) -> None:
        row["offset"] = self.size + tar_members.HEADER
        self._rows.append(row)
        self._write(member)
        if len(self._rows) == _PAGE:
            self._turn()

    def close(self) -> tuple[Segment, bytes, pa.Table]:
        """The segment, its index, its rows."""
        self._turn()
        self._write(tar_members.ending(self.size))
        self.file.flush()
        # In one piece, so that the index is a function of the rows and not of how they came.
        rows = pa.concat_tables(self._pages).combine_chunks()
        buffer = io.BytesIO()
        pq.write_table(rows.select(INDEX_SCHEMA.names), buffer, store_schema=False)
        index = buffer.getvalue()
        tar_sha256, index_sha256 = self._digest.hexdigest(), hashlib.sha256(index).hexdigest()
        name = hashlib.sha256(f"{tar_sha256}{index_sha256}".encode()).hexdigest()[:32]
        made = Segment(name, tar_key(name), index_key(name), len(rows), self.size, tar_sha256, index_sha256)
        return made, index, rows

    def _write(self, data: bytes | memoryview) -> None:
        self.file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def _turn(self) -> None:
        if self._rows or not self._pages:
            self._pages.append(pa.Table.from_pylist(self._rows, WIDE_SCHEMA))
            self._rows = []
