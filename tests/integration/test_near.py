"""Invariant 2 on real pictures and a real catalog, over several drops."""

import io
from itertools import combinations
from typing import Any

from PIL import Image
from sqlalchemy import insert, select

from ml.catalog.engine import transaction
from ml.catalog.tables import drops, samples, segments
from ml.context import Context
from ml.datasets import near_duplicates
from ml.datasets.near_duplicates import Neighbour
from ml.ingest import ingest
from tests.pictures import digits, halves, upload


def jpeg(data: bytes, quality: int = 92, side: int = 64) -> bytes:
    buffer = io.BytesIO()
    image = Image.open(io.BytesIO(data)).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def rows_of(ctx: Context) -> list[dict[str, Any]]:
    with transaction(ctx.engine) as connection:
        return [dict(r) for r in connection.execute(select(samples)).mappings()]


def whole(row: dict[str, Any]) -> int:
    return (row["phash_high"] & 0xFFFFFFFF) << 32 | (row["phash_low"] & 0xFFFFFFFF)


def test_versions_of_one_picture_share_a_split_whenever_they_come(context: Context) -> None:
    chosen = digits()[:60]
    for name, quality, side in (("one", 95, 64), ("two", 90, 64), ("three", 95, 96)):
        files = {f"{label}/{i}.jpg": jpeg(data, quality, side) for i, (label, data) in enumerate(chosen)}
        ingest(context, upload(context, name, files))
    rows = rows_of(context)
    assert len(rows) > 150, "versions of a picture are samples of their own"
    groups = {row["group_id"] for row in rows}
    assert len(groups) < 80, "most versions joined their picture's group"
    assert len({(row["group_id"], row["split"]) for row in rows}) == len(groups)
    for one, other in combinations(rows, 2):
        if (whole(one) ^ whole(other)).bit_count() <= near_duplicates.RADIUS:
            assert one["split"] == other["split"], (one["sha256"], other["sha256"])


def test_the_catalog_finds_exactly_the_near_ones(context: Context) -> None:
    centre = 0xF00F_1234_8765_ABCD
    values = [
        centre ^ mask for mask in (0, 1, 1 << 63, 0b111, 1 << 40 | 3, 0b1111, 1 << 50 | 1 << 40 | 3, 0xFFFF << 20)
    ]
    with transaction(context.engine) as connection:
        connection.execute(insert(drops).values(id="d", prefix="p", listing_digest="x", status="claimed"))
        keys = {"tar_key": "t", "index_key": "i", "tar_sha256": "t", "index_sha256": "i"}
        connection.execute(insert(segments).values(id="s", samples=0, bytes=0, **keys))
        fixed = {"split": "train", "label": "a", "drop_id": "d", "segment_id": "s", "width": 1, "height": 1}
        for number, value in enumerate(values):
            high, low = halves(value)
            looks = {"phash_high": high, "phash_low": low}
            connection.execute(insert(samples).values(sha256=f"{number}", group_id=f"g{number}", **looks, **fixed))
        high, low = halves(centre)
    asked = [{"phash_high": 7, "phash_low": 7}, {"phash_high": high, "phash_low": low}]
    neighbours = near_duplicates.find_stored(context.engine, asked)
    assert neighbours == {1: [Neighbour(str(n), f"g{n}", "train", "a") for n in range(5)]}
