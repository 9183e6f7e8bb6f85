"""A search for a recipe, with real Postgres, S3 and MLflow: shared by workers, one of which is killed."""

import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import optuna
import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from ml.catalog.engine import transaction
from ml.cli import main
from ml.context import Context, connect
from ml.datasets import loader
from ml.errors import InvalidInputError, NotFoundError
from ml.ingest import ingest
from ml.settings import PREFIX, Settings
from ml.tuning import study
from ml.tuning.search import search
from tests import forked
from tests.pictures import digit_files, upload
from tests.servers import wait_until

BEAT = 5
"""Seconds; a worker on a busy machine may be late by ten more without being taken for dead."""

# What is judged stays by the weights it began with: steps are tiny, and of those little enters the average.
HOPELESS = {"learning_rate": 2e-4, "warm_up": 0.3, "ema": 0.995, "label_smoothing": 0.2}
SOUND = {
    "learning_rate": 5e-3, "weight_decay": 1e-2, "label_smoothing": 0.0, "warm_up": 0.0,
    "batch_size": 32, "augmentation": "none", "mix": "none", "ema": 0.0,
}  # fmt: skip


@pytest.fixture
def ctx(context_with_mlflow: Context) -> Context:
    """500 digits as a dataset version."""
    assert ingest(context_with_mlflow, upload(context_with_mlflow, "one", digit_files(0, 500))).version
    return context_with_mlflow


def _worker(settings: Settings, trials: int, stuck: Path | None) -> None:
    """A worker; with `stuck`, one that says so in its first trial and then hangs."""

    def told(*_: Any) -> None:
        if stuck:
            stuck.touch()
            time.sleep(300)

    search(connect(settings), trials=trials, epochs=2, progress=told, heartbeat=BEAT)


def _silence(ctx: Context) -> float:
    """Seconds since the last heartbeat of any trial."""
    query = text("select extract(epoch from localtimestamp - max(heartbeat)) from tuning.trial_heartbeats")
    with transaction(ctx.engine) as connection:
        return float(connection.execute(query).scalar_one() or 0)


def started(settings: Settings, trials: int, stuck: Path | None = None) -> BaseProcess:
    return forked.started(_worker, settings, trials, stuck)


def test_two_workers_share_a_study_and_a_killed_ones_trial_is_done_by_another(ctx: Context, tmp_path: Path) -> None:
    dies = started(ctx.settings, 4, tmp_path / "stuck")
    wait_until((tmp_path / "stuck").exists, what="the first trial")
    assert dies.pid is not None
    os.kill(dies.pid, signal.SIGKILL)
    dies.join()
    wait_until(lambda: _silence(ctx) > 3 * BEAT, what="the dead worker's heartbeat being old")
    others = [started(ctx.settings, 4) for _ in range(2)]
    for other in others:
        other.join()
        assert other.exitcode == 0
    result = search(ctx, trials=4, epochs=2, heartbeat=BEAT)
    states = [row["state"] for row in result.trials]
    assert 4 <= len([s for s in states if s in ("complete", "pruned")]) <= 5  # the last two at the same time
    assert states.count("fail") == 1
    (failed,) = (row for row in result.trials if row["state"] == "fail")
    again = [row for row in result.trials if row["settings"] == failed["settings"] and row["state"] == "complete"]
    assert len(again) == 1, "its choices were tried again"
    assert result.first == again[0]["accuracy"], "they were the settings as they are"
    runs = {row["run_id"]: ctx.tracking.get_run(row["run_id"]) for row in result.trials}
    assert len(runs) == len(result.trials)
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {result.run_id}
    assert runs[failed["run_id"]].info.status == "KILLED"
    assert {run.info.status for key, run in runs.items() if key != failed["run_id"]} == {"FINISHED"}
    parent = ctx.tracking.get_run(result.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["best_validation_accuracy"] == result.best


def test_the_best_recipe_becomes_settings_and_the_holdout_is_never_read(
    ctx: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read: list[str] = []
    whole = loader.load

    def load(context: Context, version: str, split: Any, *more: Any) -> loader.Split:
        read.append(split)
        return whole(context, version, split, *more)

    monkeypatch.setattr(loader, "load", load)
    poor = connect(ctx.settings.model_copy(update=HOPELESS))
    alone = search(poor, trials=1, epochs=4)
    assert alone.file is None, "nothing is better than the only one"
    # What the sampler would find is chance; one sound recipe among its trials makes the outcome certain.
    study.open_study(poor, alone.study, lambda _: None, lambda _: None, BEAT).enqueue_trial(SOUND)
    result = search(poor, trials=4, epochs=4)
    assert sorted(set(read)) == ["train", "validation"]
    assert result.best > result.first + 0.2
    assert result.file == ctx.settings.home / "recipe.env"
    loaded = Settings.load({f"{PREFIX}HOME": str(ctx.settings.home)})
    best = next(row for row in result.trials if row["accuracy"] == result.best and row["state"] == "complete")
    assert loaded.learning_rate == pytest.approx(best["settings"]["learning_rate"], rel=1e-5)
    assert loaded.batch_size == best["settings"]["batch_size"]
    assert loaded.mix == best["settings"]["mix"]
    exported = Settings.load({f"{PREFIX}HOME": str(ctx.settings.home), f"{PREFIX}BATCH_SIZE": "48"})
    assert exported.batch_size == 48, "the environment wins"
    with transaction(ctx.engine) as connection:
        kept = connection.execute(text("select count(*) from tuning.trials")).scalar_one()
    assert kept == 4
    before = result.trials
    assert search(poor, trials=4, epochs=4).trials == before, "there is nothing left to do"


def test_a_trial_worse_than_the_others_at_the_same_epoch_is_stopped(ctx: Context) -> None:
    poor = connect(ctx.settings.model_copy(update=HOPELESS))
    search(poor, trials=1, epochs=4, name="mine")
    others = study.open_study(poor, "mine", lambda _: None, lambda _: None, 20)
    for _ in range(4):  # better than any accuracy can be, so that no luck of the sixth trial keeps up
        others.add_trial(optuna.create_trial(value=2.0, intermediate_values=dict.fromkeys(range(1, 5), 2.0)))
    result = search(poor, trials=6, epochs=4, name="mine")
    (stopped,) = (row for row in result.trials if row["state"] == "pruned")
    run = ctx.tracking.get_run(stopped["run_id"])
    assert (run.info.status, run.data.tags["pruned"]) == ("FINISHED", "true")
    history = ctx.tracking.get_metric_history(run.info.run_id, "validation_accuracy")
    assert 2 <= len(history) < 4
    assert "final_validation_accuracy" not in run.data.metrics


def test_what_cannot_be_searched_on_is_said(ctx: Context) -> None:
    with pytest.raises(NotFoundError):
        search(ctx, "0" * 64, trials=1)
    search(ctx, trials=1, epochs=1, name="mine")
    other = ingest(ctx, upload(ctx, "two", digit_files(500, 600))).version
    assert other
    with pytest.raises(InvalidInputError, match="name another"):
        search(ctx, other, trials=1, name="mine")


def test_the_command(ctx: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ml.cli.tune.connected", lambda: ctx)
    done = CliRunner().invoke(main.app, ["tune", "--trials", "2", "--epochs", "1", "--output", str(tmp_path / "r.env")])
    assert done.exit_code == 0, done.output
    assert "trial" in done.output
    assert ("written to" in done.output) == (tmp_path / "r.env").exists()
