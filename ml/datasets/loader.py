"""Arrays of a dataset version, from a local cache that holds every segment once.

A segment is immutable, so its tar, its index and its decoded pixels are fetched and made once a host
and never again: a cycle's cost follows the new segments.
"""

import fcntl
import hashlib
import logging
import math
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
from ml.datasets.segments import read_index
from ml.datasets.splits import SplitName
from ml.errors import IntegrityError, NotFoundError
from ml.imaging import images
from ml.imaging.images import Limits, Pixels

log = logging.getLogger(__name__)

_SHAPE_SAMPLE = 2000
_SIDE_STEP, _SIDE_LEAST, _SIDE_MOST = 8, 24, 96


@dataclass(frozen=True, eq=False)
class Images:
    """Chosen rows of memory maps as one array, ``uint8[N, size, size, channels]``, that is never in memory whole.

    Attributes:
        maps: the decoded segments.
        part: ``int32[N]``, the map that an image is in; `row`: ``int64[N]``, its place there.
    """

    maps: tuple[Pixels, ...]
    part: NDArray[np.int32]
    row: NDArray[np.int64]
    image_shape: tuple[int, int, int]

    @classmethod
    def of(cls, parts: Sequence[tuple[Pixels, NDArray[np.int64]]], image_shape: tuple[int, int, int]) -> Self:
        """From maps and the rows wanted of each."""
        counts = [len(rows) for _, rows in parts]
        part = np.repeat(np.arange(len(parts), dtype=np.int32), counts)
        row = np.concatenate([rows for _, rows in parts]) if parts else np.zeros(0, np.int64)
        return cls(tuple(pixels for pixels, _ in parts), part, row, image_shape)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self), *self.image_shape)

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, wanted: Any) -> Pixels:
        """What an array would give for a number, a slice, positions or a mask, read now."""
        part, row = self.part[wanted], self.row[wanted]
        if part.ndim == 0:
            one: Pixels = np.asarray(self.maps[int(part)][row])
            return one
        found = np.empty((len(row), *self.image_shape), np.uint8)
        for number in np.unique(part):
            here = np.flatnonzero(part == number)
            found[here] = self.maps[number][row[here]]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Pixels:
        return np.asarray(self[:], dtype)

    def take(self, positions: NDArray[np.int64]) -> Self:
        """Some of the images, still unread."""
        return replace(self, part=self.part[positions], row=self.row[positions])


@dataclass(frozen=True)
class Split:
    """One split of a version, in manifest order.

    Attributes:
        images: ``uint8[N, size, size, channels]``, read when they are looked at.
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
        """Some of the samples; images stay unread."""
        return replace(
            self,
            images=self.images.take(positions),
            labels=self.labels[positions],
            sha256=[self.sha256[i] for i in positions],
            segment_ids=[self.segment_ids[i] for i in positions],
            drop_ids=[self.drop_ids[i] for i in positions],
        )


def load(ctx: Context, version_id: str, split: SplitName, size: int, channels: int) -> Split:
    """A split decoded to the model's input, removals left out and relabels applied.

    Raises:
        IntegrityError: a stored segment is not what its row promises.
        NotFoundError: a segment or the version is missing.
    """
    manifest = versions.manifest(ctx, version_id)
    position = {name: i for i, name in enumerate(manifest.classes)}
    removed = set(manifest.removals)
    parts: list[tuple[Pixels, NDArray[np.int64]]] = []
    hashes, labels, drops, segments = list[str](), list[str](), list[str](), list[str]()
    for segment_id in manifest.segments:
        table = columns(ctx, segment_id, ("sha256", "label", "split", "drop_id"))
        keep = np.flatnonzero(table["split"].to_numpy() == split)
        if removed:
            digests = table["sha256"].to_pylist()
            keep = np.asarray([i for i in keep if digests[i] not in removed], np.int64)
        if len(keep):
            parts.append((pixels(ctx, segment_id, size, channels), keep))
            chosen = table.take(keep)
            hashes += chosen["sha256"].to_pylist()
            labels += chosen["label"].to_pylist()
            drops += chosen["drop_id"].to_pylist()
            segments += [segment_id] * len(keep)
    named = [position[manifest.label_of(digest, label)] for digest, label in zip(hashes, labels, strict=True)]
    return Split(
        images=Images.of(parts, (size, size, channels)),
        labels=np.asarray(named, np.int64),
        sha256=hashes,
        segment_ids=segments,
        drop_ids=drops,
        classes=manifest.classes,
    )


def shape_of(
    ctx: Context, version_id: str, least: int = _SIDE_LEAST, most: int = _SIDE_MOST, step: int = _SIDE_STEP
) -> tuple[int, int]:
    """Image side and channels that suit the version's training images.

    The side is the setting, else the median longer side rounded up to a multiple of `step`, within
    `least` and `most`; one channel if every sampled image is grey.
    """
    wanted = ("split", "width", "height", "grey")
    parts = [columns(ctx, s, wanted) for s in versions.manifest(ctx, version_id).segments]
    every = pa.concat_tables(parts) if parts else pa.table({name: [] for name in wanted})
    train = np.flatnonzero(every["split"].to_numpy() == "train")
    if not len(train):
        raise NotFoundError(f"dataset version {version_id[:12]} has no training images")
    sampled = every.take(train[:: max(1, len(train) // _SHAPE_SAMPLE)])
    side = float(np.median(np.maximum(sampled["width"].to_numpy(), sampled["height"].to_numpy())))
    rounded = math.ceil(side / step) * step
    size = ctx.settings.image_size or min(most, max(least, rounded))
    return size, 1 if all(sampled["grey"].to_pylist()) else 3


def index(ctx: Context, segment_id: str) -> list[dict[str, Any]]:
    """The index rows of a segment, cached."""
    return read_index(_index(ctx, segment_id).read_bytes())


def columns(ctx: Context, segment_id: str, names: Sequence[str]) -> pa.Table:
    """Some columns of a segment's index, cached; for whole versions, whose rows would be too many as dicts."""
    return pq.ParquetFile(_index(ctx, segment_id)).read(columns=list(names))


def tar(ctx: Context, segment_id: str) -> Path:
    """A segment's images as a local tar, cached and proven by its SHA-256."""
    return _tar(ctx, segment_id)


def _index(ctx: Context, segment_id: str) -> Path:
    path = _cache(ctx) / "segments" / f"{segment_id}.parquet"
    if not path.exists():
        stored = row(ctx, segment_id)
        data = ctx.store.get(stored["index_key"])
        _prove(hashlib.sha256(data).hexdigest(), stored["index_sha256"], stored["index_key"])
        _place(path, data)
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

    def one(i: int) -> None:
        with tar.open("rb") as file:
            file.seek(rows[i]["offset"])
            out[i] = images.decode(file.read(rows[i]["size"]), size, channels, limits)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, range(len(rows))))
    out.flush()
    temporary.rename(path)
    log.info("decoded segment %s: %d images to %d×%d×%d", segment_id, len(rows), size, size, channels)


def _tar(ctx: Context, segment_id: str) -> Path:
    path = _cache(ctx) / "segments" / f"{segment_id}.tar"
    if not path.exists():
        stored = row(ctx, segment_id)
        temporary = _temporary(path)
        ctx.store.get_file(stored["tar_key"], temporary)
        with temporary.open("rb") as file:
            _prove(hashlib.file_digest(file, "sha256").hexdigest(), stored["tar_sha256"], stored["tar_key"])
        temporary.rename(path)
    return path


def row(ctx: Context, segment_id: str) -> dict[str, Any]:
    """A segment's row in the catalog; raises NotFoundError for an unknown id."""
    with transaction(ctx.engine) as connection:
        query = select(segments_table).where(segments_table.c.id == segment_id)
        found = connection.execute(query).mappings().first()
    if found is None:
        raise NotFoundError(f"no segment has the id `{segment_id}`")
    return dict(found)


def _prove(found: str, expected: str, key: str) -> None:
    if found != expected:
        raise IntegrityError(f"{key} has SHA-256 {found}, expected {expected}: damaged or replaced")


def _cache(ctx: Context) -> Path:
    folder = ctx.settings.home / "cache"
    for name in ("segments", "pixels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return folder


def _place(path: Path, data: bytes) -> None:
    temporary = _temporary(path)
    temporary.write_bytes(data)
    temporary.rename(path)


def _temporary(path: Path) -> Path:
    """A name of this caller's own: two processes may fetch the same file at once."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process of this host at a time makes the file."""
    with path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
