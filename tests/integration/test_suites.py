"""The suites of the training set and of the prediction log, on real data; what they say is kept and stops or alerts."""

import re
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from ml.catalog import cycles, validations
from ml.catalog.engine import transaction
from ml.catalog.tables import label_tasks, predictions, samples
from ml.context import Context
from ml.datasets import versions
from ml.errors import InvalidInputError
from ml.ingest import ingest
from ml.monitoring import judge as of_log
from ml.training.data import validate as of_dataset
from ml.training.train import train
from tests import bundles
from tests.doubles.registry import MemoryRegistry, install
from tests.pictures import digit_files, digits, upload


def newest(ctx: Context) -> versions.DatasetVersion:
    version = versions.latest(ctx)
    assert version
    return version


def test_a_sound_training_set_passes_and_its_figures_are_kept(context: Context) -> None:
    ingest(context, upload(context, "one", digit_files(0, 300)))
    before = newest(context)
    ingest(context, upload(context, "two", digit_files(300, 700)))
    version = newest(context)
    of_dataset.validate_training_set(context, version)
    kept = validations.get(context.engine, "dataset", version.id)
    assert kept
    assert (kept.passed, kept.failures, kept.warnings) == (True, [], [])
    figures = kept.figures
    assert figures["growth"] == version.train / before.train
    assert (figures["train"], figures["classes"], figures["classes_lost"]) == (version.train, 10, 0)
    assert 0 < figures["smallest_class"] <= figures["largest_class_share"] * version.train
    assert f"Dataset version {version.number}" in context.store.get(str(kept.report_key)).decode()


def test_a_version_that_breaks_an_expectation_ends_the_cycle_before_any_training(context: Context) -> None:
    """There is no MLflow here: nothing of the training is reached."""
    drop = ingest(context, upload(context, "one", {f"7/{i}.png": d for i, (_, d) in enumerate(digits()[:30])}))
    install(context, MemoryRegistry())
    vars(context)["tracking"] = _NoRuns()
    assert drop.version
    with pytest.raises(InvalidInputError, match="at least two classes must have training samples; found 1"):
        train(context, drop.version, cycle_id=drop.drop_id)
    cycle = cycles.get(context.engine, drop.drop_id)
    assert cycle.verdict == "stopped"
    assert "at least two classes" in str(cycle.reason)
    kept = validations.get(context.engine, "dataset", drop.version)
    assert kept
    assert not kept.passed
    assert b"Not trained on" in context.store.get(str(kept.report_key))


class _NoRuns:
    """A client of an MLflow that has no experiments."""

    def get_experiment_by_name(self, name: str) -> None:
        del name


def test_labels_that_are_mostly_doubted_stop_a_training(context: Context) -> None:
    ingest(context, upload(context, "one", digit_files(0, 60)))
    with transaction(context.engine) as connection:
        hashes = list(connection.execute(select(samples.c.sha256)).scalars())
        rows = [{"sha256": h, "reason": "suspected", "score": 1.0} for h in hashes[:40]]
        connection.execute(insert(label_tasks), rows)
    with pytest.raises(InvalidInputError, match=r"label tasks doubt 0\.6667 of the samples"):
        of_dataset.validate_training_set(context, newest(context))


def test_an_edited_suite_is_read_at_once_and_needs_no_code(
    make_context: Callable[..., Context], tmp_path: Path
) -> None:
    folder = tmp_path / "expectations"
    folder.mkdir()
    shipped = Path(__file__).parents[2] / "expectations"
    for path in shipped.glob("*.yml"):
        (folder / path.name).write_text(path.read_text())
    context = make_context(expectations=folder)
    ingest(context, upload(context, "one", digit_files(0, 40)))
    of_dataset.validate_training_set(context, newest(context))
    rule = "  - type: expect_column_values_to_be_between\n    kwargs: {column: train, min_value: 1000}\n"
    with (folder / "dataset.yml").open("a") as file:
        file.write(f'{rule}    meta: {{reason: "only {{value}} to train on"}}\n')
    with pytest.raises(InvalidInputError, match=f"only {newest(context).train} to train on"):
        of_dataset.validate_training_set(context, newest(context))


# --- the prediction log --------------------------------------------------------------------------


def answer(**columns: object) -> dict[str, object]:
    return {
        "id": uuid.uuid4(),
        "at": datetime.now(UTC),
        "model_version": 1,
        "label": "a",
        "probability": 0.9,
        "milliseconds": 1.0,
        "image_sha256": "0" * 64,
        "image_object": "predictions/x.tar",
        "width": 8,
        "height": 8,
        "brightness": 0.5,
        "replica": "test",
        **columns,
    }


def log(ctx: Context, *rows: dict[str, object]) -> None:
    with transaction(ctx.engine) as connection:
        connection.execute(insert(predictions), list(rows))


@pytest.fixture
def serving(make_context: Callable[..., Context], tmp_path: Path) -> Context:
    """A live model of the classes a and b; thirty answers are enough to be judged."""
    context = make_context(monitor_min_predictions=30)
    digest = bundles.make_bundle(tmp_path / "bundle", ["a", "b"])
    bundles.deploy(context, bundles.upload(context, tmp_path / "bundle"), digest, version=1)
    return context


def test_a_sound_log_passes_and_one_too_short_is_not_judged(serving: Context) -> None:
    log(serving, *(answer() for _ in range(29)))
    assert of_log.validate_predictions(serving) == of_log.LogValidation(29, (), news=False, report_key=None)
    assert validations.newest(serving.engine, "predictions") is None
    log(serving, answer(label="b"))
    assert of_log.validate_predictions(serving) == of_log.LogValidation(30, (), news=False, report_key=None)
    kept = validations.newest(serving.engine, "predictions")
    assert kept
    assert (kept.passed, kept.figures["predictions"]) == (True, 30)


def test_what_is_wrong_in_the_log_is_named_kept_and_told_once(serving: Context) -> None:
    wrong = answer(probability=1.5)
    log(serving, *(answer() for _ in range(40)), wrong, answer(label="zebra"), answer(label="zebra", model_version=9))
    first = of_log.validate_predictions(serving)
    assert first.news
    assert any(re.search(rf"found 1\.5 \(1 answers, such as {wrong['id']}\)", words) for words in first.failures)
    assert sum("label that the live model does not have (1 answers" in words for words in first.failures) == 1
    assert len(first.failures) == 2
    assert first.report_key
    assert str(wrong["id"]) in serving.store.get(first.report_key).decode()
    second = of_log.validate_predictions(serving)
    assert (second.failures, second.news) == (first.failures, False)
    log(serving, answer(width=0))
    assert of_log.validate_predictions(serving).news, "something else is wrong now"


def test_images_that_are_missing_are_wrong_unless_none_are_logged(serving: Context) -> None:
    log(serving, *(answer(image_object=None) for _ in range(40)))
    words = f"images of logged answers are missing (40 answers, such as {_first(serving)})"
    assert of_log.validate_predictions(serving).failures == (words,)
    without = replace(serving, settings=serving.settings.model_copy(update={"log_images": "off"}))
    assert of_log.validate_predictions(without).failures == ()


def _first(ctx: Context) -> object:
    with transaction(ctx.engine) as connection:
        return connection.execute(select(predictions.c.id).order_by(predictions.c.id.desc()).limit(1)).scalar()


def test_a_log_that_is_only_strange_is_recorded_and_not_told(serving: Context) -> None:
    log(serving, *(answer(probability=0.1) for _ in range(40)))
    verdict = of_log.validate_predictions(serving)
    assert (verdict.failures, verdict.news) == ((), False)
    kept = validations.newest(serving.engine, "predictions")
    assert kept
    assert "unsure of nearly everything" in kept.warnings[0]
    assert kept.report_key == verdict.report_key
