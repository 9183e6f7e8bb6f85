"""Segments: an uncompressed tar of images and a Parquet index, with a content-derived id.

The same samples in the same order give the same bytes, so writing a segment is idempotent.
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
    [
        *INDEX_SCHEMA,
        ("phash_high", pa.int32()),
        ("phash_low", pa.int32()),
        ("subject", pa.string()),
        ("thumbnail", pa.string()),  # as Postgres reads bytes: \\x and hexadecimal digits
        ("copy_signature", pa.int64()),
        ("copy_links", pa.int16()),
    ]
)
"""The index columns and those that only the catalog stores."""
_PAGE: Final = 5000  # rows buffered as dicts
_BUFFER: Final = 1_048_576
_NAME: Final = "segment.tar"

Sample = tuple[dict[str, Any], bytes | memoryview]
"""A row with the columns of `WIDE_SCHEMA` except `offset`, and the image encoded by `tar_members.encode`."""


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


class SegmentUploads:
    """Uploads segments in the background; a context manager that waits for pending uploads on exit."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(1, "segments")
        self._pending: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._pool.shutdown(cancel_futures=error is not None)
        if error is None:
            self.wait()

    def add(self, segment: Segment, index: bytes, folder: TemporaryDirectory[str]) -> None:
        """Upload the tar in `folder`, then remove the folder, and the index; at most one upload waits."""
        self.wait(1)
        self._pending.append(self._pool.submit(self._send, segment, index, folder))

    def wait(self, limit: int = 0) -> None:
        """Wait until at most `limit` uploads are pending; raises the error of a failed one."""
        while len(self._pending) > limit:
            self._pending.pop(0).result()

    def _send(self, segment: Segment, index: bytes, folder: TemporaryDirectory[str]) -> None:
        with folder as path:
            self._store.put_file(segment.tar_key, Path(path) / _NAME, "application/x-tar")
            self._store.put(segment.index_key, index)


def write(uploads: SegmentUploads, samples: Iterable[Sample], limit: int) -> Iterator[tuple[Segment, pa.Table]]:
    """Write samples into segments of about `limit` bytes; yield each with its rows (`WIDE_SCHEMA`).

    Sets `offset` in the rows. Memory holds one page of rows; the tar is written to a temporary file.
    """
    iterator = iter(samples)
    sample = next(iterator, None)
    while sample is not None:
        folder = TemporaryDirectory(prefix="evergreen-segment-")
        writer = _SegmentWriter(Path(folder.name) / _NAME)
        with writer.file:
            while sample is not None and (not writer.size or writer.size < limit):
                writer.add(*sample)
                sample = next(iterator, None)
            segment, index, rows = writer.close()
        uploads.add(segment, index, folder)
        yield segment, rows


def read_samples(store: ObjectStore, segment_id: str, rows: Sequence[dict[str, Any]]) -> Iterator[Sample]:
    """Read samples of a stored segment, as input for `write`; `rows` are the index rows to read."""
    name = tar_key(segment_id)
    parts = [ByteRange(name, r["offset"] - tar_members.HEADER, tar_members.member_size(r["size"])) for r in rows]
    return zip(rows, range_reads.stream(store, parts), strict=True)


def packed_id(samples: Iterable[Sample], folder: Path) -> str:
    """Return the id of the segment made of these samples, without storing it."""
    writer = _SegmentWriter(folder / _NAME)
    with writer.file:
        for row, member in samples:
            writer.add(row, member)
        return writer.close()[0].id


def read_index(data: bytes) -> list[dict[str, Any]]:
    """The index rows of a segment."""
    rows: list[dict[str, Any]] = pq.ParquetFile(io.BytesIO(data)).read().to_pylist()
    return rows


class _SegmentWriter:
    """Writes a segment's tar to a file and collects its index rows."""

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
            self._flush_page()

    def close(self) -> tuple[Segment, bytes, pa.Table]:
        """The segment, its index, its rows."""
        self._flush_page()
        self._write(tar_members.end_of_archive(self.size))
        self.file.flush()
        # Combined, so that the index bytes do not depend on the page boundaries.
        rows = pa.concat_tables(self._pages).combine_chunks()
        buffer = io.BytesIO()
        pq.write_table(rows.select(INDEX_SCHEMA.names), buffer, store_schema=False)
        index = buffer.getvalue()
        tar_sha256, index_sha256 = self._digest.hexdigest(), hashlib.sha256(index).hexdigest()
        name = hashlib.sha256(f"{tar_sha256}{index_sha256}".encode()).hexdigest()[:32]
        segment = Segment(name, tar_key(name), index_key(name), len(rows), self.size, tar_sha256, index_sha256)
        return segment, index, rows

    def _write(self, data: bytes | memoryview) -> None:
        self.file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def _flush_page(self) -> None:
        if self._rows or not self._pages:
            self._pages.append(pa.Table.from_pylist(self._rows, WIDE_SCHEMA))
            self._rows = []
