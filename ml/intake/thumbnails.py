"""Thumbnails of the usable images of a chunk, stored beside its staging tar; acceptance finds copies by them.

They are pictures, if small. So they are in no table that stays: they are deleted and erased with the tars.
"""

import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ml.catalog import markers
from ml.context import Context
from ml.errors import NotFoundError
from ml.imaging.copy_signature import SIDE, Thumbnails

SUFFIX: Final = ".thumbnails.parquet"
BYTES: Final = SIDE * SIDE
"""Of a thumbnail: a grey level for each pixel."""
SCHEMA: Final = pa.schema(
    [
        ("packed", pa.int64()),  # offset of the image's member in the staging tar, ascending
        ("sha256", pa.string()),
        ("thumbnail", pa.binary(BYTES)),
    ]
)


def key(drop_id: str, chunk: int) -> str:
    return f"{markers.staging_prefix(drop_id)}{chunk:06}{SUFFIX}"


def encode(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The object of a chunk, from rows with the columns of `SCHEMA`."""
    return _encode(pa.Table.from_pylist(list(rows), SCHEMA))


def read(
    ctx: Context, drop_id: str, chunks: NDArray[np.int64], packed: NDArray[np.int64]
) -> tuple[Thumbnails, NDArray[np.bool_]]:
    """Thumbnails of usable images ``uint8[N, SIDE, SIDE]``, and a mask ``bool[N]`` of those that are known.

    Unknown are those that a release without thumbnails inspected, and what was erased meanwhile.

    Args:
        chunks: the chunk of each image.
        packed: the offset of its member in the chunk's staging tar.

    Raises:
        UnavailableError: the object store failed.
    """
    thumbnails = np.zeros((len(chunks), SIDE, SIDE), np.uint8)
    known = np.zeros(len(chunks), np.bool_)
    for chunk in np.unique(chunks).tolist():
        try:
            table = pq.ParquetFile(io.BytesIO(ctx.store.get(key(drop_id, chunk)))).read()
        except NotFoundError:
            continue
        offsets = table["packed"].to_numpy()
        of_chunk = np.flatnonzero(chunks == chunk)
        position = np.searchsorted(offsets, packed[of_chunk]).clip(0, max(0, len(offsets) - 1))
        there = offsets[position] == packed[of_chunk] if len(offsets) else np.zeros(len(of_chunk), np.bool_)
        pixels = np.frombuffer(b"".join(table["thumbnail"].to_pylist()), np.uint8).reshape(-1, SIDE, SIDE)
        thumbnails[of_chunk[there]] = pixels[position[there]]
        known[of_chunk[there]] = True
    return thumbnails, known


def without(data: bytes, hashes: Collection[str]) -> tuple[bytes, int]:
    """The object of a chunk without the images with these SHA-256, and how many they are."""
    table = pq.ParquetFile(io.BytesIO(data)).read()
    chosen = pc.is_in(table["sha256"], pa.array(sorted(hashes), pa.string()))
    count = pc.sum(chosen).as_py() or 0
    return (_encode(table.filter(pc.invert(chosen))) if count else data), count


def _encode(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()
