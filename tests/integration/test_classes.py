"""Classes change by recorded operations, people answer label tasks, samples are erased."""

from typing import Any

import pytest
from sqlalchemy import func, select

from ml.catalog import label_queue
from ml.catalog.engine import transaction
from ml.catalog.label_queue import LabelTaskRecord
from ml.catalog.tables import erasures, samples
from ml.catalog.tables import labels as labels_table
from ml.context import Context
from ml.datasets import answers, classes, labels, loader, versions
from ml.datasets.labels import LabelQuestion
from ml.datasets.splits import SPLITS
from ml.erasure import erase, selection
from ml.errors import ConflictError, IntegrityError, InvalidInputError, NotFoundError
from ml.ingest import ingest
from ml.intake import quarantine, quarantine_store
from tests.pictures import digits, upload

WHO: dict[str, Any] = {"actor": "ann", "reason": "for a test"}


def open_tasks(ctx: Context) -> list[LabelTaskRecord]:
    with transaction(ctx.engine) as connection:
        return label_queue.open_tasks(connection, 9)


def drop(ctx: Context, name: str, files: dict[str, int]) -> str:
    prefix = upload(ctx, name, {key: digits()[i][1] for key, i in files.items()})
    ingest(ctx, prefix)
    return prefix


def trained(ctx: Context, version: str | None = None) -> list[str]:
    """Every sample's label, as the loader gives them."""
    newest = versions.latest(ctx)
    assert newest is not None
    splits = [loader.load(ctx, version or newest.id, split, 24, 1) for split in SPLITS]
    return sorted(s.classes[label] for s in splits for label in s.labels)


def stored(ctx: Context) -> list[str]:
    with transaction(ctx.engine) as connection:
        return sorted(connection.execute(select(samples.c.label)).scalars())


def test_a_renamed_class_keeps_its_samples_and_takes_those_of_later_drops(context: Context) -> None:
    drop(context, "one", {"kitty/1.png": 1, "kitty/2.png": 2, "dog/3.png": 3})
    before = versions.latest(context)
    assert before is not None
    done = classes.rename(context, "kitty", "cat", **WHO)
    assert (done.samples, done.version != before.id) == (2, True)
    assert trained(context) == stored(context) == ["cat", "cat", "dog"]
    assert trained(context, before.id) == ["dog", "kitty", "kitty"], "an earlier version stays as it was"
    drop(context, "two", {"kitty/4.png": 4, "cat/5.png": 5, "kitty/1.png": 1})
    assert trained(context) == stored(context) == ["cat", "cat", "cat", "cat", "dog"]
    assert open_tasks(context) == [], "the old name contradicts nothing"
    with pytest.raises(ConflictError, match="a class already"):
        classes.rename(context, "cat", "dog", **WHO)
    with pytest.raises(ConflictError, match="still stands for it"):
        classes.rename(context, "dog", "kitty", **WHO)
    with pytest.raises(NotFoundError, match="is not a class"):
        classes.rename(context, "kitty", "tiger", **WHO)
    classes.rename(context, "cat", "kitty", **WHO)
    assert trained(context) == stored(context) == ["dog", "kitty", "kitty", "kitty", "kitty"]
    assert [record.kind for record in classes.history(context)] == ["rename", "rename"]


def test_classes_are_merged_and_split(context: Context) -> None:
    drop(context, "one", {"cat/1.png": 1, "dog/3.png": 3, "fish/4.png": 4})
    classes.merge(context, ["cat", "dog"], "pet", **WHO)
    assert trained(context) == stored(context) == ["fish", "pet", "pet"]
    with transaction(context.engine) as connection:
        pets = list(connection.execute(select(samples.c.sha256).where(samples.c.label == "pet")).scalars())
        fish = connection.execute(select(samples.c.sha256).where(samples.c.label == "fish")).scalar_one()
    with pytest.raises(InvalidInputError, match=f"not samples of class `pet`, the first is {fish}"):
        classes.split(context, "pet", {fish: "shark"}, **WHO)
    done = classes.split(context, "pet", {pets[0]: "hamster"}, **WHO)
    assert done.after == ("hamster",)
    assert trained(context) == stored(context) == ["fish", "hamster", "pet"]
    assert classes.counts(context) == {"fish": 1, "hamster": 1, "pet": 1}


def test_an_answer_settles_a_label_for_good(context: Context) -> None:
    drop(context, "one", {"cat/1.png": 1, "dog/2.png": 2})
    drop(context, "two", {"dog/1.png": 1})
    (task,) = open_tasks(context)
    assert (task.label, task.details) == ("cat", {"votes": {"cat": 1, "dog": 1}})
    with pytest.raises(InvalidInputError, match="is not a class"):
        answers.answer(context, task.id, "cow", actor="ann")
    result = answers.answer(context, task.id, "dog", actor="ann")
    assert result.version is not None
    assert trained(context) == stored(context) == ["dog", "dog"]
    assert open_tasks(context) == []
    with pytest.raises(ConflictError, match="done already"):
        answers.answer(context, task.id, "cat", actor="ann")
    drop(context, "three", {"cat/1.png": 1, "cat/7.png": 7})
    assert stored(context) == ["cat", "dog", "dog"], "one more voice does not outweigh the answer"


def test_a_label_may_go_back_and_forth(context: Context) -> None:
    drop(context, "one", {"cat/1.png": 1, "dog/2.png": 2})
    with transaction(context.engine) as connection:
        digest = connection.execute(select(samples.c.sha256).where(samples.c.label == "cat")).scalar_one()
    for turn, label in enumerate(("dog", "cat", "dog"), 1):
        question = LabelQuestion(digest, f"turn {turn}", 1.0, label=None, suggested=None, details={})
        with transaction(context.engine) as connection:
            labels.open_tasks(connection, [question])
        answers.answer(context, open_tasks(context)[0].id, label, actor="ann")
        assert trained(context) == stored(context) == sorted(["dog", label])


def test_what_is_erased_is_nowhere_and_does_not_come_back(context_with_mlflow: Context) -> None:
    ctx = context_with_mlflow
    secret = drop(ctx, "one", {f"a/{i}.png": i for i in range(5)} | {f"b/{i}.png": i for i in range(5, 10)})
    drop(ctx, "two", {"a/20.png": 20})
    before = versions.latest(ctx)
    assert before is not None
    with transaction(ctx.engine) as connection:
        query = select(samples.c.sha256, samples.c.segment_id).where(samples.c.label == "b").limit(2)
        chosen = connection.execute(query).all()
    gone = [c.sha256 for c in chosen]
    done = erase.erase(ctx, selection.of_hashes(gone), **WHO)
    assert (done.samples, done.models) == (2, [])
    after = versions.latest(ctx)
    assert after is not None
    assert after.id == done.version
    assert after.train + after.validation + after.holdout == 9
    assert len(trained(ctx)) == len(stored(ctx)) == 9
    assert not set(gone) & {
        r["sha256"] for s in versions.manifest(ctx, after.id).segments for r in loader.index(ctx, s)
    }
    for segment in {c.segment_id for c in chosen}:
        assert not list(ctx.store.list(f"segments/{segment}")), "its bytes are deleted"
    assert len([o for o in ctx.labels.list(secret) if o.key.endswith(".png")]) == 8
    with transaction(ctx.engine) as connection:
        assert connection.execute(select(func.count()).where(labels_table.c.sha256.in_(gone))).scalar_one() == 0
        assert connection.execute(select(erasures.c.finished_at)).scalar_one() is not None
    drop(ctx, "three", {"b/5.png": 5, "b/6.png": 6, "b/7.png": 7, "b/8.png": 8, "b/9.png": 9, "b/21.png": 21})
    assert len(stored(ctx)) == 10, "only what is new"
    again = erase.erase(ctx, selection.of_hashes(gone), **WHO)
    assert (again.samples, again.version, again.left) == (0, None, [])
    held = quarantine_store.list_held(ctx)
    assert [record.object_key for record in held] == [None, None]
    assert {reason for record in held for reason in record.reasons} == {quarantine.ERASED}


def test_an_erasure_that_was_killed_is_finished(context_with_mlflow: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = context_with_mlflow
    drop(ctx, "one", {f"a/{i}.png": i for i in range(6)})

    def killed(_: Context, __: int) -> int:
        raise IntegrityError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(erase, "_complete", killed)
        with pytest.raises(IntegrityError):
            erase.erase(ctx, selection.of_drop("drops/one/"), **WHO)
    assert len(stored(ctx)) == 6
    assert erase.finish(ctx) == 0
    assert stored(ctx) == []
    assert [o.key for o in ctx.labels.list() if o.key.endswith(".png")] == []
    assert [o.key for o in ctx.store.list("segments/")] == []
