"""Loads dataset versions as arrays through a local cache of segments.

Segments are immutable, so each is downloaded and decoded once per host: the cost of a cycle depends on
the new segments only.
"""

import fcntl
import hashlib
import logging
import math
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sqlalchemy import select

from ml.catalog.engine import transaction
from ml.catalog.tables import segments as segments_table
from ml.context import Context
from ml.datasets import versions
from ml.datasets.segments import Segment, read_index
from ml.datasets.splits import SplitName
from ml.errors import ConflictError, IntegrityError, NotFoundError, UnavailableError
from ml.imaging import images
from ml.imaging.images import Limits, Pixels

log = logging.getLogger(__name__)

_SHAPE_SAMPLE = 2000
_PAGE = 5000
_SIDE_STEP, _SIDE_LEAST, _SIDE_MOST = 8, 24, 96


@dataclass(frozen=True, eq=False)
class Images:
    """Selected rows of memory maps as one lazy array, ``uint8[N, size, size, channels]``.

    Attributes:
        maps: the decoded segments.
        part: ``int32[N]``, index into `maps` of each image.
        row: ``int64[N]``, position of each image in its map.
    """

    maps: tuple[Pixels, ...]
    part: NDArray[np.int32]
    row: NDArray[np.int64]
    image_shape: tuple[int, int, int]

    @classmethod
    def of(cls, parts: Sequence[tuple[Pixels, NDArray[np.int64]]], image_shape: tuple[int, int, int]) -> Self:
        """Build from memory maps and the selected rows of each."""
        counts = [len(rows) for _, rows in parts]
        part = np.repeat(np.arange(len(parts), dtype=np.int32), counts)
        row = np.concatenate([rows for _, rows in parts]) if parts else np.zeros(0, np.int64)
        return cls(tuple(pixels for pixels, _ in parts), part, row, image_shape)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self), *self.image_shape)

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, key: Any) -> Pixels:
        """Read images by number, slice, positions or mask, as NumPy indexing does."""
        part, row = self.part[key], self.row[key]
        if part.ndim == 0:
            image: Pixels = np.asarray(self.maps[int(part)][row])
            return image
        selected = np.empty((len(row), *self.image_shape), np.uint8)
        for number in np.unique(part):
            positions = np.flatnonzero(part == number)
            selected[positions] = self.maps[number][row[positions]]
        return selected

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Pixels:
        return np.asarray(self[:], dtype)

    def take(self, positions: NDArray[np.int64]) -> Self:
        """Select images without reading them."""
        return replace(self, part=self.part[positions], row=self.row[positions])


@dataclass(frozen=True)
class Split:
    """One split of a version, in manifest order.

    Attributes:
        images: ``uint8[N, size, size, channels]``, read on access.
        labels: ``int64[N]``, positions in `classes`.
    """

    images: Images
    labels: NDArray[np.int64]
    sha256: list[str]
    segment_ids: list[str]
    drop_ids: list[str]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, positions: NDArray[np.int64]) -> Self:
        """Select samples without reading their images."""
        return replace(
            self,
            images=self.images.take(positions),
            labels=self.labels[positions],
            sha256=[self.sha256[i] for i in positions],
            segment_ids=[self.segment_ids[i] for i in positions],
            drop_ids=[self.drop_ids[i] for i in positions],
        )


def load(ctx: Context, version_id: str, split: SplitName, size: int, channels: int) -> Split:
    """Load a split, decoded to the model's input size, with removals and relabels applied.

    Raises:
        IntegrityError: a stored segment does not match the SHA-256 in its row.
        NotFoundError: a segment or the version is missing.
    """
    with suppress(UnavailableError):  # the next use deletes them
        drop_erased(ctx)
    manifest = versions.manifest(ctx, version_id)
    position = {name: i for i, name in enumerate(manifest.classes)}
    removed = set(manifest.removals)
    parts: list[tuple[Pixels, NDArray[np.int64]]] = []
    hashes, labels, drops, segments = list[str](), list[str](), list[str](), list[str]()
    for segment_id in manifest.segments:
        table = columns(ctx, segment_id, ("sha256", "label", "split", "drop_id"))
        selected = np.flatnonzero(table["split"].to_numpy() == split)
        if removed:
            digests = table["sha256"].to_pylist()
            selected = np.asarray([i for i in selected if digests[i] not in removed], np.int64)
        if len(selected):
            parts.append((pixels(ctx, segment_id, size, channels), selected))
            chosen = table.take(selected)
            hashes += chosen["sha256"].to_pylist()
            labels += chosen["label"].to_pylist()
            drops += chosen["drop_id"].to_pylist()
            segments += [segment_id] * len(selected)
    label_ids = [position[manifest.label_of(digest, label)] for digest, label in zip(hashes, labels, strict=True)]
    return Split(
        images=Images.of(parts, (size, size, channels)),
        labels=np.asarray(label_ids, np.int64),
        sha256=hashes,
        segment_ids=segments,
        drop_ids=drops,
        classes=manifest.classes,
    )


def shape_of(
    ctx: Context, version_id: str, min_side: int = _SIDE_LEAST, max_side: int = _SIDE_MOST, step: int = _SIDE_STEP
) -> tuple[int, int]:
    """Choose image side and channels for the version's training images.

    The side is the setting, else the median longer side rounded up to a multiple of `step`, within
    `least` and `most`; one channel if every sampled image is grey.
    """
    names = ("split", "width", "height", "grey")
    parts = [columns(ctx, s, names) for s in versions.manifest(ctx, version_id).segments]
    table = pa.concat_tables(parts) if parts else pa.table({name: [] for name in names})
    train = np.flatnonzero(table["split"].to_numpy() == "train")
    if not len(train):
        raise NotFoundError(f"dataset version {version_id[:12]} has no training images")
    sampled = table.take(train[:: max(1, len(train) // _SHAPE_SAMPLE)])
    side = float(np.median(np.maximum(sampled["width"].to_numpy(), sampled["height"].to_numpy())))
    rounded = math.ceil(side / step) * step
    size = ctx.settings.image_size or min(max_side, max(min_side, rounded))
    return size, 1 if all(sampled["grey"].to_pylist()) else 3


def index(ctx: Context, segment_id: str) -> list[dict[str, Any]]:
    """The index rows of a segment, from the cache."""
    return read_index(_index(ctx, segment_id).read_bytes())


def columns(ctx: Context, segment_id: str, names: Sequence[str]) -> pa.Table:
    """Columns of a segment's index, from the cache; for whole versions, too large for rows as dicts."""
    return pq.ParquetFile(_index(ctx, segment_id)).read(columns=list(names))


def tar(ctx: Context, segment_id: str) -> Path:
    """A segment's images as a local tar, cached and verified by SHA-256."""
    return _tar(ctx, segment_id)


def _index(ctx: Context, segment_id: str) -> Path:
    path = _cache(ctx) / "segments" / f"{segment_id}.parquet"
    if not path.exists():
        stored = stored_segment(ctx, segment_id)
        try:
            data = ctx.store.get(stored.index_key)
        except NotFoundError as error:
            raise NotFoundError(f"segment {segment_id} is gone: it was erased, or deleted ({error})") from error
        _check_sha256(hashlib.sha256(data).hexdigest(), stored.index_sha256, stored.index_key)
        _write_atomic(path, data)
    return path


def pixels(ctx: Context, segment_id: str, size: int, channels: int) -> Pixels:
    """All images of a segment as a memory map, in index order."""
    path = _cache(ctx) / "pixels" / f"{segment_id}-{size}-{channels}.npy"
    with _locked(path):
        if not path.exists():
            _decode(ctx, segment_id, size, channels, path)
    mapped: Pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped


def _decode(ctx: Context, segment_id: str, size: int, channels: int, path: Path) -> None:
    rows = index(ctx, segment_id)
    tar = _tar(ctx, segment_id)
    limits = Limits(ctx.settings.max_image_bytes, ctx.settings.max_image_pixels)
    temporary = path.with_suffix(".part")
    out = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(rows), size, size, channels))

    def decode_image(i: int) -> None:
        with tar.open("rb") as file:
            file.seek(rows[i]["offset"])
            out[i] = images.decode(file.read(rows[i]["size"]), size, channels, limits)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(decode_image, range(len(rows))))
    out.flush()
    temporary.rename(path)
    log.info("decoded segment %s: %d images to %d×%d×%d", segment_id, len(rows), size, size, channels)


def _tar(ctx: Context, segment_id: str) -> Path:
    path = _cache(ctx) / "segments" / f"{segment_id}.tar"
    if not path.exists():
        stored = stored_segment(ctx, segment_id)
        temporary = _temporary(path)
        ctx.store.get_file(stored.tar_key, temporary)
        with temporary.open("rb") as file:
            _check_sha256(hashlib.file_digest(file, "sha256").hexdigest(), stored.tar_sha256, stored.tar_key)
        temporary.rename(path)
    return path


def drop_erased(ctx: Context) -> tuple[int, int]:
    """Delete this host's cached copies of segments that held erased samples; return the files and their bytes.

    Costs a query by primary key for the segments in the cache.

    Raises:
        UnavailableError: Postgres does not answer.
    """
    cached: dict[str, list[Path]] = {}
    for path in _cache(ctx).glob("*/*"):
        cached.setdefault(path.name.partition(".")[0].partition("-")[0], []).append(path)
    ids, count, size = sorted(cached), 0, 0
    with transaction(ctx.engine) as connection:
        for start in range(0, len(ids), _PAGE):
            query = select(segments_table.c.id).where(
                segments_table.c.id.in_(ids[start : start + _PAGE]), segments_table.c.erased_at.is_not(None)
            )
            for path in [path for segment in connection.execute(query).scalars() for path in cached[segment]]:
                with suppress(FileNotFoundError):  # another process of this host deletes it too
                    size += path.stat().st_size
                    path.unlink()
                    count += 1
    return count, size


def check_not_erased(ctx: Context, version_id: str) -> None:
    """Raise ConflictError if an erasure has taken samples out of the version, whose copies may be in memory still.

    Raises:
        UnavailableError: Postgres does not answer.
    """
    segments = versions.manifest(ctx, version_id).segments
    with transaction(ctx.engine) as connection:
        for start in range(0, len(segments), _PAGE):
            query = select(segments_table.c.id).where(
                segments_table.c.id.in_(segments[start : start + _PAGE]), segments_table.c.erased_at.is_not(None)
            )
            if connection.execute(query.limit(1)).first() is not None:
                raise ConflictError(
                    f"images of dataset version {version_id[:12]} were erased while it was in use: nothing made of it "
                    "is kept; start again with the newest version"
                )


def stored_segment(ctx: Context, segment_id: str) -> Segment:
    """Keys, sizes and digests of a segment; raises NotFoundError for an unknown id."""
    with transaction(ctx.engine) as connection:
        query = select(segments_table).where(segments_table.c.id == segment_id)
        row = connection.execute(query).mappings().first()
    if row is None:
        raise NotFoundError(f"no segment has the id `{segment_id}`")
    return Segment(**{name: row[name] for name in Segment.__dataclass_fields__})


def _check_sha256(actual: str, expected: str, key: str) -> None:
    if actual != expected:
        raise IntegrityError(f"{key} has SHA-256 {actual}, expected {expected}: damaged or replaced")


def _cache(ctx: Context) -> Path:
    folder = ctx.settings.home / "cache"
    for name in ("segments", "pixels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return folder


def _write_atomic(path: Path, data: bytes) -> None:
    temporary = _temporary(path)
    temporary.write_bytes(data)
    temporary.rename(path)


def _temporary(path: Path) -> Path:
    """A unique name: two processes may download the same file at once."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Allow one process of this host at a time to create the file."""
    with path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
