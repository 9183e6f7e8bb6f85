"""Labels over several drops: everything said is kept, the policy decides, disagreement asks people."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import select

from ml.catalog import drops as drop_rows
from ml.catalog.engine import transaction
from ml.catalog.tables import label_tasks, labels, samples
from ml.context import Context
from ml.datasets import loader, versions
from ml.datasets.splits import SPLITS
from ml.ingest import ingest
from tests.pictures import digits, upload


def named(ctx: Context, name: str, rows: list[tuple[int, str, str | None]]) -> str | None:
    """Ingest a drop with a labels.csv: which digit, its label, who says so; the version it makes."""
    table = ["file,label,annotator", *(f"{i}.png,{label},{who or ''}" for i, label, who in rows)]
    files = {f"{i}.png": digits()[i][1] for i, _, _ in rows}
    drop = upload(ctx, name, files | {"labels.csv": "\n".join(table).encode()})
    return ingest(ctx, drop).version


def told(ctx: Context) -> dict[str, Any]:
    with transaction(ctx.engine) as connection:
        summary = {
            "labels": sorted(connection.execute(select(samples.c.label)).scalars()),
            "annotations": len(connection.execute(select(labels.c.id)).all()),
            "open": len(connection.execute(select(label_tasks.c.id).where(label_tasks.c.status == "open")).all()),
        }
    newest = versions.latest(ctx)
    assert newest is not None
    splits = [loader.load(ctx, newest.id, split, 24, 1) for split in SPLITS]
    summary["trained"] = sorted(s.classes[label] for s in splits for label in s.labels)
    return summary


def test_the_majority_relabels_and_a_tie_asks(context: Context) -> None:
    first = named(context, "one", [(0, "zero", "ann"), (1, "one", "ann"), (2, "two", "ann")])
    tied = named(context, "two", [(0, "nought", "bob")])
    assert tied is None, "a tie changes no label, so it makes no version"
    assert told(context) == {
        "labels": ["one", "two", "zero"],
        "annotations": 4,
        "open": 1,
        "trained": ["one", "two", "zero"],
    }
    outvoted = named(context, "three", [(0, "nought", "eve"), (1, "one", "eve")])
    assert outvoted not in (None, first)
    now = told(context)
    assert now["labels"] == now["trained"] == ["nought", "one", "two"]
    assert (now["annotations"], now["open"]) == (6, 1)
    row = drop_rows.newest_of(context.engine, "drops/three/")
    assert row is not None
    assert (row.status, row.accepted, row.duplicates) == ("accepted", 0, 2)


def test_an_annotator_who_corrects_the_only_annotation_relabels_and_leaves_no_question(context: Context) -> None:
    named(context, "one", [(0, "zero", "ann"), (1, "one", "ann")])
    assert named(context, "two", [(0, "nought", "ann")]) is not None
    assert told(context) == {"labels": ["nought", "one"], "annotations": 3, "open": 0, "trained": ["nought", "one"]}


def test_the_newest_label_wins_when_the_policy_says_so(make_context: Callable[..., Context]) -> None:
    ctx = make_context(label_policy="latest")
    named(ctx, "one", [(0, "zero", "ann"), (1, "one", "ann")])
    named(ctx, "two", [(0, "nought", "bob")])
    assert told(ctx)["trained"] == ["nought", "one"]


def test_the_same_words_again_change_nothing(context: Context) -> None:
    rows: list[tuple[int, str, str | None]] = [(0, "zero", None), (1, "one", "ann")]
    named(context, "one", rows)
    before = told(context)
    assert named(context, "two", rows) is None
    assert told(context) == before


def test_pictures_that_look_alike_with_other_labels_ask(context: Context) -> None:
    from tests.integration.test_near import jpeg

    image = digits()[7][1]
    ingest(context, upload(context, "one", {"seven/a.jpg": jpeg(image, 95), "two/b.png": digits()[2][1]}))
    ingest(context, upload(context, "two", {"one/a.jpg": jpeg(image, 90)}))
    with transaction(context.engine) as connection:
        (task,) = connection.execute(select(label_tasks)).mappings().all()
    assert (task["reason"], task["label"], task["suggested"]) == ("near_duplicate_conflict", "one", "seven")
