"""Relabelling is held, untrusted labels never reach validation and holdout, and all changes are on record."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import insert, select

from ml.catalog import drops
from ml.catalog.engine import transaction
from ml.catalog.tables import feedback, label_changes, label_tasks, quarantine, samples
from ml.context import Context
from ml.datasets import classes, relabels, undo, versions
from ml.errors import InvalidInputError, NotFoundError
from ml.ingest import IngestResult, ingest
from ml.intake import dry_run, held
from tests.integration.test_cli import as_json
from tests.mortal import killed
from tests.pictures import digit_files, digits, upload

BASE = 120


def rows_of(ctx: Context, table: Any, *where: Any) -> list[dict[str, Any]]:
    with transaction(ctx.engine) as connection:
        return [dict(row) for row in connection.execute(select(table).where(*where)).mappings()]


def stored(ctx: Context) -> dict[str, tuple[str, str]]:
    return {row["sha256"]: (row["label"], row["split"]) for row in rows_of(ctx, samples)}


def table_drop(ctx: Context, name: str, numbers: list[int], label: str | None, *who: str) -> str:
    """A drop of known digits that says `label` of each, or the right one, under each name; its prefix."""
    lines = [f"{i}.png,{label or digits()[i][0]},{annotator}" for i in numbers for annotator in who or ("",)]
    files = {f"{i}.png": digits()[i][1] for i in numbers}
    return upload(ctx, name, files | {"labels.csv": "\n".join(["file,label,annotator", *lines]).encode()})


def feedback_drop(ctx: Context, name: str, numbers: list[int], label: str, *who: str) -> str:
    """As `table_drop`, made by the loop from feedback, so far as Postgres knows."""
    prefix = f"drops/{name}/"
    values = {"prediction_id": uuid4(), "predicted_at": "now", "label": label, "source": "x", "drop_prefix": prefix}
    with transaction(ctx.engine) as connection:
        connection.execute(insert(feedback).values(values))
    return table_drop(ctx, name, numbers, label, *who)


def base(ctx: Context) -> dict[str, tuple[str, str]]:
    assert ingest(ctx, upload(ctx, "lab-base", digit_files(0, BASE))).version
    return stored(ctx)


def of_class(label: str, count: int) -> list[int]:
    return [i for i, (name, _) in enumerate(digits()[:BASE]) if name == label][:count]


def test_a_drop_that_relabels_a_class_waits_and_says_what_it_would_do(context: Context, tmp_path: Path) -> None:
    before = base(context)
    sevens = of_class("7", 99)
    prefix = table_drop(context, "poison", sevens, "1", "ann", "bob")
    result = ingest(context, prefix)
    assert (result.version, stored(context)) == (None, before)
    drop = drops.get(context.engine, result.drop_id)
    assert (drop.status, [f["kind"] for f in drop.findings]) == ("held", list(relabels.KINDS))
    assert f"the labels of {len(sevens)} of {BASE} stored samples" in str(result.reason)
    assert f"7 → 1: {len(sevens)}; in " in str(result.reason)
    assert f"said by ann, bob ({len(sevens)})" in str(result.reason)
    assert "class 7 loses 100% of its samples" in str(result.reason)
    assert set(drop.findings[0]["images"]) == {f"{i}.png" for i in sevens}
    held.approve(context, drop.id, actor="eve", reason="sevens they are not")
    assert ingest(context, prefix).version
    assert Counter(label for label, _ in stored(context).values())["7"] == 0
    changes = rows_of(context, label_changes)
    assert {(c["before"], c["after"], c["actor"], c["drop_id"]) for c in changes} == {("7", "1", "ann, bob", drop.id)}
    assert {c["sha256"]: c["split"] for c in changes} == {d: s for d, (label, s) in before.items() if label == "7"}
    assert relabels.SHARE in drops.get(context.engine, drop.id).approved_kinds
    folder = tmp_path / "again"
    folder.mkdir()
    (folder / "labels.csv").write_text(
        "file,label,annotator\n" + "".join(f"{i}.png,7,a\n{i}.png,7,b\n" for i in sevens)
    )
    for i in sevens:
        (folder / f"{i}.png").write_bytes(digits()[i][1])
    foretold = dry_run.run(context, folder, lambda _done, _total: None, lambda *_: (), relabels.preview)
    assert foretold.figures["relabelled"] == len(sevens), "the first drop and two more against two"
    assert len(foretold.held) == 2


def test_few_changes_at_a_time_are_held_when_they_add_up(make_context: Callable[..., Context]) -> None:
    ctx = make_context(relabel_share=0.05)
    base(ctx)
    three = [of_class(label, 3) for label in "123"]
    assert ingest(ctx, table_drop(ctx, "a", three[0], "9", "x", "y")).version, "3 of 120: under the least that is held"
    assert ingest(ctx, table_drop(ctx, "b", three[1], "9", "x", "y")).version, "6 of 120: not more than 5 %"
    third = ingest(ctx, table_drop(ctx, "c", three[2], "9", "x", "y"))
    assert third.version is None
    assert "nobody saw 9 (7.5%, at most 5.0% go unseen)" in str(third.reason)
    held.approve(ctx, third.drop_id, actor="eve", reason="all three looked at")
    assert ingest(ctx, "drops/c/").version
    assert ingest(ctx, table_drop(ctx, "d", of_class("4", 3), "9", "x", "y")).version, "counted anew"


def test_an_untrusted_drop_trains_only_and_proposes(make_context: Callable[..., Context]) -> None:
    ctx = make_context(trusted_drops="lab-*")
    before = base(ctx)
    everything = list(range(BASE))
    result = ingest(ctx, table_drop(ctx, "web", everything, "9", "ann", "bob", "eve"))
    assert (result.version, stored(ctx)) == (None, before), "one vote against one, and none in the holdout"
    proposals = rows_of(ctx, label_tasks, label_tasks.c.reason == "proposal")
    evaluated = {d for d, (label, split) in before.items() if split != "train" and label != "9"}
    assert {(t["sha256"], t["suggested"]) for t in proposals} == {(d, "9") for d in evaluated}
    assert ingest(ctx, upload(ctx, "web-new", digit_files(BASE, 2 * BASE))).version
    new = {d: split for d, (_, split) in stored(ctx).items() if d not in before}
    assert set(new.values()) == {"train"}
    assert len(new) + len(rows_of(ctx, quarantine)) == BASE


def test_near_copies_of_the_holdout_are_left_out_of_an_untrusted_drop(make_context: Callable[..., Context]) -> None:
    from tests.integration.test_near import jpeg

    ctx = make_context(trusted_drops="lab-*")
    first, copies = (
        {f"{label}/{i}.jpg": jpeg(data, quality) for i, (label, data) in enumerate(digits()[:BASE])}
        for quality in (95, 90)
    )
    assert ingest(ctx, upload(ctx, "lab-base", first)).version
    before = stored(ctx)
    result = ingest(ctx, upload(ctx, "web", copies))
    assert result.version
    after = stored(ctx)
    assert Counter(s for _, s in after.values())["holdout"] == Counter(s for _, s in before.values())["holdout"]
    reasons = [row["reasons"][0] for row in rows_of(ctx, quarantine, quarantine.c.drop_id == result.drop_id)]
    assert reasons
    assert all("of no trusted source" in reason for reason in reasons)


def test_feedback_drops_are_known_by_postgres_and_never_trusted(context: Context) -> None:
    before = base(context)
    holdout = [i for i in range(BASE) if before[digest_of(i)][1] == "holdout"]

    def unchanged(result: IngestResult) -> bool:
        return result.version is None and stored(context) == before

    assert unchanged(ingest(context, feedback_drop(context, "feedback-1", holdout, "9", "a", "b", "c")))
    assert unchanged(ingest(context, feedback_drop(context, "feedback-2", holdout, "9", "key:1", "key:2")))


def digest_of(number: int) -> str:
    import hashlib

    return hashlib.sha256(digits()[number][1]).hexdigest()


def test_further_annotations_of_a_row_follow_renamed_classes(context: Context) -> None:
    base(context)
    classes.rename(context, "9", "nine", actor="eve", reason="a name")
    numbers = of_class("9", 2)
    lines = [f"{i}.png,{label},{who}" for i in numbers for label, who in (("9", "ann"), ("9", "bob"))]
    files = {f"{i}.png": digits()[i][1] for i in numbers}
    drop = upload(context, "more", files | {"labels.csv": "\n".join(["file,label,annotator", *lines]).encode()})
    assert ingest(context, drop).version is None
    assert "9" not in {label for label, _ in stored(context).values()}
    assert rows_of(context, label_tasks) == []


@pytest.mark.parametrize("label", ["7", "1"])
def test_the_report_has_the_figures(context: Context, label: str) -> None:
    base(context)
    result = ingest(context, table_drop(context, "one", of_class("7", 4), label, "ann", "bob"))
    report = context.store.get(f"drops/{result.drop_id}/report.json").decode()
    assert f'"relabelled": {0 if label == "7" else 4},' in report
    page = context.store.get(f"data-docs/drops/{result.drop_id}.html").decode()
    assert ("7 → 1: 4" in page) == (label == "1")


def test_changes_are_listed_and_taken_back(context: Context) -> None:
    before = base(context)
    fours = of_class("4", 4)
    assert ingest(context, table_drop(context, "wrong", fours, "9", "ann", "bob")).version
    changes = as_json(context, "labels", "changes")
    assert {(c["before"], c["after"], c["actor"]) for c in changes} == {("4", "9", "ann, bob")}
    assert as_json(context, "labels", "changes", "--drop", "wrong") == changes
    holdout = [c["id"] for c in changes if c["split"] == "holdout"]
    assert [c["id"] for c in as_json(context, "labels", "changes", "--split", "holdout")] == holdout

    def take_back(ctx: Context) -> None:
        undo.undo(ctx, ids=[changes[0]["id"]], actor="eve")

    assert killed(context, take_back, effects=1)
    assert as_json(context, "labels", "undo", str(changes[0]["id"]), "--as", "eve")["samples"] == 1
    rest = as_json(context, "labels", "undo", "--drop", "wrong", "--as", "eve")
    assert (rest["samples"], rest["skipped"]) == (3, [changes[0]["id"]])
    assert stored(context) == before
    newest = versions.latest(context)
    assert newest is not None
    assert rest["version"] == newest.id
    nothing = as_json(context, "labels", "undo", "--drop", "wrong", "--as", "eve")
    assert (nothing["samples"], nothing["version"]) == (0, None)
    assert len(as_json(context, "labels", "changes")) == 8
    again = ingest(context, table_drop(context, "wrong-2", fours, "9", "ann"))
    assert (again.version, stored(context)) == (None, before), "an operator's word outweighs what was said before"
    with pytest.raises(NotFoundError, match="no change of a label has the id 999"):
        undo.undo(context, ids=[999], actor="eve")
    with pytest.raises(InvalidInputError, match="one of the two"):
        undo.undo(context, actor="eve")
