"""A drop is compared with the live model: shuffled labels stop it, right ones do not."""

import random
from pathlib import Path

import numpy as np
import onnx
import orjson
import pytest
from onnx import numpy_helper

from ml.catalog import drops
from ml.context import Context
from ml.datasets.ingest import ingest
from ml.errors import UnavailableError
from ml.imaging import images
from ml.imaging.images import Limits
from ml.intake.claim import claim
from ml.intake.inspect import inspect_chunk
from ml.intake.validate import validate
from ml.models import bundle, model
from tests import bundles
from tests.pictures import digit_files, digits, upload


def deploy_nearest_mean(ctx: Context, folder: Path) -> str:
    """A live model that knows the digits: logits grow with nearness to each digit's mean; returns its prefix."""
    bundles.make_bundle(folder, "0123456789")
    limits = Limits(1_000_000, 1_000_000)
    pixels = np.stack([images.decode(data, 8, 1, limits).ravel() for _, data in digits()[:900]]).astype(np.float32)
    labels = np.array([int(label) for label, _ in digits()[:900]])
    means = np.stack([pixels[labels == i].mean(0) for i in range(10)]) / 255
    graph = onnx.load(folder / bundle.MODEL)
    for tensor in graph.graph.initializer:
        if tensor.name == "weights":
            tensor.CopyFrom(numpy_helper.from_array((2 * means.T).astype(np.float32), "weights"))
        if tensor.name == "offset":
            tensor.CopyFrom(numpy_helper.from_array(-np.square(means).sum(1).astype(np.float32), "offset"))
    onnx.save(graph, folder / bundle.MODEL)
    probes, _ = bundle.load_probes((folder / bundle.PROBES).read_bytes())
    np.savez(folder / bundle.PROBES, images=probes, probabilities=model.load(folder).predict(probes))
    digest = bundle.write(folder, bundle.parse((folder / bundle.INFO).read_bytes()))
    prefix = bundles.upload(ctx, folder)
    bundles.deploy(ctx, prefix, digest, 1)
    return prefix


def shuffled(files: dict[str, bytes]) -> dict[str, bytes]:
    labels = [key.split("/")[0] for key in files]
    random.Random(7).shuffle(labels)
    return {f"{label}/{key.split('/')[1]}": data for label, (key, data) in zip(labels, files.items(), strict=True)}


def test_shuffled_labels_stop_a_drop_and_right_ones_do_not(context: Context, tmp_path: Path) -> None:
    deploy_nearest_mean(context, tmp_path / "bundle")
    good = ingest(context, upload(context, "good", digit_files(900, 1100)))
    assert good.version
    report = orjson.loads(context.store.get(f"drops/{good.drop_id}/report.json"))
    assert report["figures"]["label_agreement"] > 0.7
    bad = ingest(context, upload(context, "bad", shuffled(digit_files(1100, 1300))))
    assert bad.version is None
    assert "look shuffled" in str(bad.reason)
    assert drops.get(context.engine, bad.drop_id).status == "rejected"
    marker = orjson.loads(context.labels.get("drops/bad/_REJECTED"))
    assert "look shuffled" in marker["reason"]


def test_a_broken_live_bundle_stops_no_drop(context: Context, tmp_path: Path) -> None:
    prefix = deploy_nearest_mean(context, tmp_path / "bundle")
    context.artifacts.put(f"{prefix}/{bundle.MODEL}", b"damaged")
    assert ingest(context, upload(context, "one", digit_files(900, 1000))).version


def test_no_bucket_means_later_not_unjudged(context: Context, tmp_path: Path) -> None:
    deploy_nearest_mean(context, tmp_path / "bundle")
    drop_id = claim(context, upload(context, "one", digit_files(900, 1000)))
    assert drop_id
    inspect_chunk(context, drop_id, 0)
    from dataclasses import replace

    from ml.storage import object_store

    away = replace(
        context,
        artifacts=object_store.connect(
            context.settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:1"}), "mlflow"
        ),
    )
    with pytest.raises(UnavailableError):
        validate(away, drop_id)
    assert drops.get(context.engine, drop_id).status == "claimed"
    assert validate(context, drop_id).accepted
