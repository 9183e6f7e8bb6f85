"""A dataset version becomes a challenger, with real MLflow, Postgres and S3."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from ml.catalog import cycles
from ml.context import Context
from ml.errors import IntegrityError, NotFoundError
from ml.ingest import ingest
from ml.models import bundle, model
from ml.training.train import train
from tests.bundles import make_live
from tests.pictures import digit_files, upload


def test_two_cycles_of_training(context_with_mlflow: Context) -> None:
    ctx = context_with_mlflow
    first = ingest(ctx, upload(ctx, "one", digit_files(0, 500)))
    assert first.version
    assert first.drop_id
    challenger = train(ctx, first.version, cycle_id=first.drop_id)
    assert challenger == train(ctx, first.version, cycle_id=first.drop_id)  # a retried task
    assert not list((ctx.settings.home / "cache" / "training").iterdir())  # nothing is left to resume
    assert ctx.registry.alias("challenger") == challenger.model_version
    assert ctx.registry.alias("champion") is None
    assert cycles.recent(ctx.engine)[0].model_version == challenger.model_version

    place = ctx.registry.bundle(challenger.model_version)
    folder = ctx.settings.home / "fetched"
    info = bundle.fetch(ctx.artifacts, place.prefix, place.digest, folder)
    loaded = model.load(folder)
    model.check_probes(loaded, folder, 1e-4)
    assert info.labels == tuple("0123456789")
    assert (info.image_size, info.channels) == (24, 1)
    assert sum(info.class_shares.values()) == pytest.approx(1)
    with pytest.raises(IntegrityError):
        bundle.fetch(ctx.artifacts, place.prefix, "0" * 64, ctx.settings.home / "other")

    run = ctx.tracking.get_run(challenger.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["plan_mode"] == "full"
    assert run.data.metrics["final_validation_accuracy"] > 0.6

    make_live(ctx, ctx.registry, challenger.model_version)
    second = ingest(ctx, upload(ctx, "two", digit_files(500, 700)))
    assert second.version
    again = train(ctx, second.version, cycle_id=str(second.drop_id), epochs=3)
    params = ctx.tracking.get_run(again.run_id).data.params
    assert params["plan_mode"] == "refresh"
    assert params["warm_start_from"] == str(challenger.model_version)
    assert int(params["plan_new"]) < int(params["training_samples"])


def test_two_processes_that_train_a_cycle_at_once_make_one_model(context_with_mlflow: Context) -> None:
    """Two `evergreen cycle` did it twice, and took two decisions."""
    ctx = context_with_mlflow
    first = ingest(ctx, upload(ctx, "one", digit_files(0, 300)))
    with ThreadPoolExecutor(2) as pool:
        trainings = [
            pool.submit(train, ctx, str(first.version), cycle_id=str(first.drop_id), epochs=1) for _ in range(2)
        ]
        one, other = (training.result() for training in trainings)
    assert one == other
    assert [found.version for found in ctx.registry.find(cycle=str(first.drop_id))] == [one.model_version]


def test_what_is_not_there_is_not_found(context_with_mlflow: Context) -> None:
    registry = context_with_mlflow.registry
    assert registry.alias("champion") is None
    assert registry.aliases() == {}
    with pytest.raises(NotFoundError):
        registry.bundle(7)
