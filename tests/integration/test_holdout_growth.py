"""One drop, or one class of it, cannot take over the holdout, and its growth is on record."""

from collections import Counter
from collections.abc import Callable

from sqlalchemy import select

from ml.catalog import drops
from ml.catalog.engine import transaction
from ml.catalog.tables import samples
from ml.context import Context
from ml.datasets import holdout_growth
from ml.datasets.accept import accept
from ml.ingest import ingest
from ml.intake.claim import claim
from ml.intake.inspect import inspect_chunk
from ml.intake.validate import validate
from tests.integration.test_cli import as_json
from tests.mortal import killed
from tests.pictures import digit_files, digits, upload


def holdout(ctx: Context) -> Counter[str]:
    with transaction(ctx.engine) as connection:
        return Counter(connection.execute(select(samples.c.label).where(samples.c.split == "holdout")).scalars())


def test_growth_is_bounded_in_all_and_by_class_whatever_is_killed(make_context: Callable[..., Context]) -> None:
    ctx = make_context(holdout_growth=0.5, holdout_growth_least=10, holdout_class_least=4)
    assert ingest(ctx, upload(ctx, "one", digit_files(0, 300))).version
    first = holdout(ctx)
    assert sum(first.values()) > 40, "the first drop is free"
    drop_id = claim(ctx, upload(ctx, "two", digit_files(300, 900)))
    assert drop_id
    inspect_chunk(ctx, drop_id, 0)
    validate(ctx, drop_id)
    assert killed(ctx, lambda mortal: accept(mortal, drop_id), effects=3)
    assert drops.get(ctx.engine, drop_id).status == "claimed"
    assert accept(ctx, drop_id)
    added = holdout(ctx) - first
    assert added.total() <= sum(first.values()) // 2
    assert added.total() > sum(first.values()) // 2 - 10
    assert all(count <= max(4, first[label] // 2 + 1) for label, count in added.items())
    images = {f"boots/{i}.png": data for i, (_, data) in enumerate(digits()) if 900 <= i < 1200}
    assert ingest(ctx, upload(ctx, "three", images)).version
    assert holdout(ctx)["boots"] <= 4 + 1, "a new class begins small; near copies of samples there join them"
    growth = holdout_growth.history(ctx)
    assert [(g.prefix, bool(g.diverted)) for g in growth] == [
        ("drops/three/", True),
        ("drops/two/", True),
        ("drops/one/", False),
    ]
    assert (growth[1].before, growth[1].samples) == (first.total(), added.total())
    shown = as_json(ctx, "datasets", "holdout")
    assert [g["prefix"] for g in shown["growth"]] == [g.prefix for g in growth]
    assert shown["parts"][0]["samples"] == holdout(ctx).total()
