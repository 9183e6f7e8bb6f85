"""Another architecture by settings: pretrained from the bucket, no warm start across, served like any other."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from ml.context import Context, connect
from ml.errors import NotFoundError
from ml.gate import scores
from ml.ingest import ingest
from ml.models import model
from ml.storage import object_store
from ml.training import export
from ml.training.network import networks
from ml.training.train import train
from tests.bundles import make_live
from tests.pictures import digit_files, upload
from tests.unit.training.test_fit_and_export import info

NAME = "mobilenet_v3_small"


def changed(ctx: Context, **values: object) -> Context:
    return connect(ctx.settings.model_copy(update=values))


def test_from_the_small_network_to_a_pretrained_backbone_and_on(context_with_mlflow: Context) -> None:
    ctx = context_with_mlflow
    done = ingest(ctx, upload(ctx, "one", digit_files(0, 120)))
    assert done.version
    first = train(ctx, done.version, cycle_id="small", epochs=1)
    make_live(ctx, ctx.registry, first.model_version)

    key = "weights/body.safetensors"
    other = changed(ctx, architecture=NAME, weights=f"s3://{ctx.settings.store_bucket}/{key}", image_size=32)
    with pytest.raises(NotFoundError, match="EVERGREEN_WEIGHTS"):
        train(other, done.version, cycle_id="too-early", epochs=1)
    object_store.connect(ctx.settings, ctx.settings.store_bucket).put(
        key, save(networks.build(NAME, 3, 1000, 224, 4).state_dict())
    )
    second = train(other, done.version, cycle_id="backbone", epochs=1)
    params = ctx.tracking.get_run(second.run_id).data.params
    assert params["architecture"] == NAME
    assert params["plan_mode"] == "full"
    assert "`small_cnn`, set is `mobilenet_v3_small`" in params["plan_reason"]
    assert params["pretrained"].startswith("s3://")
    assert params["layer_rates"] == "0.1,1"
    metrics = ctx.tracking.get_run(second.run_id).data.metrics
    assert 0 <= metrics["int8_agreement"] <= 1
    loaded, _ = scores.load_model(changed(other, service_variant="int8"), second.model_version)
    assert (loaded.variant == "int8") == bool(metrics["int8_kept"]) == (metrics["int8_accuracy_loss"] <= 0.003)
    assert (loaded.info.image_size, loaded.info.channels) == (32, 1)

    make_live(ctx, ctx.registry, second.model_version)
    more = ingest(other, upload(other, "two", digit_files(120, 180)))
    assert more.version
    third = train(other, more.version, cycle_id="warm", epochs=1)
    params = ctx.tracking.get_run(third.run_id).data.params
    assert params["plan_mode"] == "refresh"
    assert params["pretrained"] == "none"


def test_a_network_that_cannot_be_quantised_goes_without_int8(
    context_with_mlflow: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no rule for this operator")

    ctx = changed(context_with_mlflow, reduced=True, reduced_max_loss=0.5)
    done = ingest(ctx, upload(ctx, "one", digit_files(0, 120)))
    assert done.version
    kept = train(ctx, done.version, cycle_id="kept", epochs=1)
    monkeypatch.setattr("ml.training.quantise.quantise", fails)
    without = train(ctx, done.version, cycle_id="without", epochs=1)
    for challenger, expected in ((kept, True), (without, False)):
        assert ctx.tracking.get_run(challenger.run_id).data.metrics["int8_kept"] == expected
        assert (scores.load_model(ctx, challenger.model_version)[0].info.int8 is not None) == expected


def test_answers_are_kept_for_each_variant(context_with_mlflow: Context) -> None:
    ctx = changed(context_with_mlflow, reduced=True, reduced_max_loss=0.5)
    done = ingest(ctx, upload(ctx, "one", digit_files(0, 400)))
    assert done.version
    version = train(ctx, done.version, cycle_id="kept", epochs=1).model_version
    probabilities = []
    for variant in ("fp32", "int8", "fp32"):
        judge, folder = scores.load_model(changed(ctx, service_variant=variant), version)
        assert judge.variant == variant
        probabilities.append(scores.evaluate(ctx, version, (judge, folder), done.version).answers.probability)
    exact, small, again = probabilities
    assert not np.array_equal(exact, small)
    assert np.array_equal(exact, again)


def test_a_transformer_with_frozen_layers_is_exported(tmp_path: Path) -> None:
    network = networks.build("vit_b_16", 1, 2, 32, 0, (0, 1))
    x = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 1), np.uint8)
    export.export(network, info(labels=("a", "b"), image_size=32), x, tmp_path)
    with torch.no_grad():
        expected = torch.softmax(network(networks.normalise(torch.from_numpy(x))), 1).numpy()
    assert model.load(tmp_path).predict(x[:1]) == pytest.approx(expected[:1], abs=1e-4)
