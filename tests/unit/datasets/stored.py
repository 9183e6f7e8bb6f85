"""Dataset versions in memory: segments of grey pictures, in the store and in the local cache."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ml.context import Context
from ml.datasets import segments, versions
from ml.datasets.segments import SegmentUploads
from ml.datasets.versions import Manifest
from ml.storage import tar_members
from tests.pictures import png


@dataclass(frozen=True)
class Picture:
    """A picture of one shade; its label, split and drop."""

    shade: int
    label: str
    split: str = "train"
    drop: str = "drop-1"
    width: int = 8
    height: int = 8
    grey: bool = True

    @property
    def png(self) -> bytes:
        shape = (self.height, self.width) if self.grey else (self.height, self.width, 3)
        return png(np.full(shape, self.shade, np.uint8))

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.png).hexdigest()


A1, A2, A3 = Picture(10, "a"), Picture(20, "a", "validation"), Picture(30, "a", "holdout")
B1, B2 = Picture(40, "b", drop="drop-2"), Picture(50, "b", "holdout", drop="drop-2")
"""The samples of the fixture `manifest`."""


def store_segment(ctx: Context, pictures: Sequence[Picture]) -> str:
    """Write one segment; the cache holds it, so that no row of the catalog is read. Returns its id."""
    samples = [(_row(picture), tar_members.encode(picture.sha256, "PNG", picture.png)) for picture in pictures]
    with SegmentUploads(ctx.store) as uploads:
        ((segment, _),) = segments.write(uploads, iter(samples), 10_000_000)
    folder = ctx.settings.home / "cache" / "segments"
    folder.mkdir(parents=True, exist_ok=True)
    ctx.store.get_file(segment.tar_key, folder / f"{segment.id}.tar")
    ctx.store.get_file(segment.index_key, folder / f"{segment.id}.parquet")
    return segment.id


def store_manifest(ctx: Context, manifest: Manifest) -> str:
    ctx.store.put(versions.key(manifest.id), manifest.to_bytes())
    return manifest.id


def store_changed(ctx: Context, manifest: Manifest) -> str:
    """Store a version with A1 relabelled to b, B1 removed, and b renamed to z."""
    return store_manifest(
        ctx,
        replace(manifest, relabels={A1.sha256: "b"}, removals=(B1.sha256,), classes=("a", "z"), class_map={"b": "z"}),
    )


def _row(picture: Picture) -> dict[str, Any]:
    return {
        "sha256": picture.sha256,
        "label": picture.label,
        "split": picture.split,
        "group_id": picture.sha256,
        "drop_id": picture.drop,
        "width": picture.width,
        "height": picture.height,
        "format": "PNG",
        "grey": picture.grey,
        "brightness": picture.shade / 255,
        "contrast": 0.0,
        "size": len(picture.png),
    }
