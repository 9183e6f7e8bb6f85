"""A drop's labels are learned between validation and acceptance: wrong ones wait for a person, right ones pass."""

import random
from dataclasses import replace
from functools import partial

import orjson
from sqlalchemy import select

from ml.catalog import drops
from ml.catalog.engine import transaction
from ml.catalog.tables import label_tasks, samples
from ml.context import Context
from ml.ingest import ingest
from ml.label_checks import report, stage
from tests.drops import validated
from tests.mortal import killed
from tests.pictures import digit_files, upload


def relabelled(files: dict[str, bytes], share: float, seed: int = 7) -> dict[str, bytes]:
    """A share of the files under another digit."""
    generator = random.Random(seed)
    changed = {}
    for key, data in files.items():
        label, name = key.split("/")
        wrong = str((int(label) + generator.randrange(1, 10)) % 10) if generator.random() < share else label
        changed[f"{wrong}/{name}"] = data
    return changed


def test_wrong_labels_wait_for_a_person_and_right_ones_pass(context: Context) -> None:
    assert ingest(context, upload(context, "first", digit_files(0, 600))).version
    good = ingest(context, upload(context, "good", digit_files(600, 800)))
    assert good.version
    body = orjson.loads(context.store.get(report.key(good.drop_id)))
    assert body["figures"]["basis"] == "stored"
    assert body["figures"]["noise"] < 0.1
    bad = ingest(context, upload(context, "bad", relabelled(digit_files(800, 1000), 0.4)))
    assert bad.version is None
    assert "of the labels are wrong" in str(bad.reason)
    assert "evergreen drops approve bad" in str(bad.reason)
    findings = drops.get(context.engine, bad.drop_id).findings
    named = next(f for f in findings if f["kind"] == "label_noise")["images"]
    right = {key.split("/")[1]: key.split("/")[0] for key in digit_files(800, 1000)}
    assert sum(right[key.split("/")[1]] != key.split("/")[0] for key in named[:40]) >= 36
    page = context.store.get(stage.page_key(bad.drop_id)).decode()
    assert "looks like" in page


def test_one_class_under_a_wrong_name_waits(context: Context) -> None:
    every = digit_files(0, 1200)
    even = {k: v for k, v in every.items() if int(k[2:6]) % 2 == 0}
    assert ingest(context, upload(context, "first", even)).version
    fours = {f"9/{k[2:]}": v for k, v in every.items() if k.startswith("4/") and k not in even}
    result = ingest(context, upload(context, "fours", fours))
    assert result.version is None
    assert "called `9` look like the stored `4`" in str(result.reason)


def test_suspects_of_an_accepted_drop_are_asked_about_once(context: Context) -> None:
    assert ingest(context, upload(context, "first", digit_files(0, 600))).version
    result = ingest(context, upload(context, "second", relabelled(digit_files(600, 900), 0.08)))
    assert result.version
    with transaction(context.engine) as connection:
        tasks = connection.execute(select(label_tasks).where(label_tasks.c.reason == stage.REASON)).mappings().all()
    assert 10 <= len(tasks) <= 60
    assert stage.open_questions(context, result.drop_id) == 0


def test_suspects_may_wait_in_quarantine(context: Context) -> None:
    context = replace(context, settings=context.settings.model_copy(update={"label_suspects": "quarantine"}))
    assert ingest(context, upload(context, "first", digit_files(0, 600))).version
    result = ingest(context, upload(context, "second", relabelled(digit_files(600, 900), 0.08)))
    assert result.version
    record = drops.get(context.engine, result.drop_id)
    assert 10 <= record.quarantined <= 60
    with transaction(context.engine) as connection:
        stored = connection.execute(select(samples.c.sha256).where(samples.c.drop_id == result.drop_id)).all()
    assert len(stored) == 300 - record.quarantined


def test_a_check_that_is_killed_anywhere_is_made_again(context: Context) -> None:
    assert ingest(context, upload(context, "first", digit_files(0, 600))).version
    drop_id = validated(context, "bad", relabelled(digit_files(600, 700), 0.6))
    effects = 0
    while killed(context, partial(stage.check, drop_id=drop_id), effects):
        effects += 1
    assert effects >= 3
    assert drops.get(context.engine, drop_id).status == "held"
    assert stage.check(context, drop_id).held, "and once more nothing changes"
    assert context.labels.exists("drops/bad/_HELD")


def test_three_images_and_one_class_pass(context: Context) -> None:
    assert ingest(context, upload(context, "three", digit_files(0, 3))).version
    ones = {k: v for k, v in digit_files(3, 400).items() if k.startswith("1/")}
    assert ingest(context, upload(context, "ones", ones)).version
