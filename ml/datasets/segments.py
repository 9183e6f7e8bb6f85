"""Segments: an uncompressed tar of images and a Parquet index beside it, named by their content.

The same samples in the same order give the same bytes, so writing a segment twice changes nothing.
"""

import hashlib
import io
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ml.objects import ObjectStore

INDEX_SCHEMA = pa.schema(
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


@dataclass(frozen=True)
class Segment:
    """A stored segment; `rows` are its index rows (see `INDEX_SCHEMA`), `offset` points at the image's bytes."""

    id: str
    tar_key: str
    index_key: str
    samples: int
    bytes: int
    tar_sha256: str
    index_sha256: str
    rows: tuple[dict[str, Any], ...]


def tar_key(segment_id: str) -> str:
    return f"segments/{segment_id}.tar"


def index_key(segment_id: str) -> str:
    return f"segments/{segment_id}.parquet"


def write(store: ObjectStore, samples: Iterable[tuple[dict[str, Any], bytes]], limit: int) -> Iterator[Segment]:
    """Pack samples (index row without offset and size, encoded image) into segments of about `limit` bytes.

    Memory holds one image; the tar grows in a temporary file. Everything is uploaded when a segment
    is yielded.
    """
    iterator = iter(samples)
    first = next(iterator, None)
    while first is not None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "segment.tar"
            rows: list[dict[str, Any]] = []
            following: tuple[dict[str, Any], bytes] | None = first
            with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
                while following is not None and (not rows or tar.offset < limit):
                    rows.append(_add(tar, *following))
                    following = next(iterator, None)
            yield _upload(store, path, rows)
        first = following


def _add(tar: tarfile.TarFile, row: dict[str, Any], data: bytes) -> dict[str, Any]:
    """Append one member: what `TarFile.addfile` does, but for building the header again and keeping it in a list."""
    member = tarfile.TarInfo(f"{row['sha256']}.{row['format'].lower()}")
    member.size = len(data)
    header = member.tobuf(tarfile.USTAR_FORMAT)
    padding = bytes(-len(data) % tarfile.BLOCKSIZE)
    offset = tar.offset + len(header)
    assert tar.fileobj  # noqa: S101 - it is open for writing
    tar.fileobj.write(header + data + padding)
    tar.offset = offset + len(data) + len(padding)
    return {**row, "offset": offset, "size": len(data)}


def _upload(store: ObjectStore, path: Path, rows: list[dict[str, Any]]) -> Segment:
    segment, index = _described(path, rows)
    store.put_file(segment.tar_key, path, "application/x-tar")
    store.put(segment.index_key, index)
    return segment


def _described(path: Path, rows: list[dict[str, Any]]) -> tuple[Segment, bytes]:
    """The segment that a tar and its rows are, and its index."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, INDEX_SCHEMA), buffer, store_schema=False)
    index = buffer.getvalue()
    with path.open("rb") as file:
        tar_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    index_sha256 = hashlib.sha256(index).hexdigest()
    name = hashlib.sha256(f"{tar_sha256}{index_sha256}".encode()).hexdigest()[:32]
    segment = Segment(
        id=name,
        tar_key=tar_key(name),
        index_key=index_key(name),
        samples=len(rows),
        bytes=path.stat().st_size,
        tar_sha256=tar_sha256,
        index_sha256=index_sha256,
        rows=tuple(rows),
    )
    return segment, index


def pack(samples: Iterable[tuple[dict[str, Any], bytes]], folder: Path) -> str:
    """The id of the one segment that the samples make, without storing it: a segment rebuilt has its own id."""
    path = folder / "segment.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        rows = [_add(tar, row, data) for row, data in samples]
    return _described(path, rows)[0].id


def read_index(data: bytes) -> list[dict[str, Any]]:
    """The index rows of a segment."""
    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(data)).to_pylist()
    return rows


def without_rows(segment: Segment) -> Segment:
    return replace(segment, rows=())
