"""A drop of nothing but hostile and odd images: each has its fate, and the good ones get in."""

from sqlalchemy import select

from ml.catalog.engine import transaction
from ml.catalog.tables import drops, quarantine, samples
from ml.context import Context
from ml.ingest import ingest
from tests.hostile.make import GOOD, hostile
from tests.pictures import digit_files, upload


def test_each_hostile_image_is_quarantined_with_its_reason(context: Context) -> None:
    cases = hostile()
    good = digit_files(0, 80)
    result = ingest(context, upload(context, "odd", good | {f"odd/{name}": data for name, (data, _) in cases.items()}))
    assert result.version, result.reason
    with transaction(context.engine) as connection:
        (drop,) = connection.execute(select(drops)).mappings()
        aside = {r["key"]: r for r in connection.execute(select(quarantine)).mappings()}
        kept = connection.execute(select(samples.c.sha256)).all()
    bad = {f"odd/{name}" for name, (_, code) in cases.items() if code is not GOOD}
    assert bad <= set(aside)
    assert all(reason.strip() for row in aside.values() for reason in row["reasons"])
    # Of the odd ones that can be read, what is blank or too narrow is put aside by the expectations.
    assert set(aside) - bad >= {"odd/one-pixel.png", "odd/one-column.png", "odd/one-row.tif"}
    assert len(kept) == drop["accepted"] == len(good) + len(cases) - len(aside) - drop["duplicates"]
    for row in aside.values():
        name = row["key"].removeprefix("odd/")
        assert context.store.get(row["object_key"]) == cases[name][0]
