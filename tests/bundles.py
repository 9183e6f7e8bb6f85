"""Bundles made by hand: a linear model over the pixels, as a real ONNX file with real probes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ml.catalog import deployments
from ml.catalog.decisions import Decision, record
from ml.catalog.engine import transaction
from ml.catalog.tables import decisions
from ml.context import Context
from ml.models import bundle, model, runtimes
from ml.models.bundle import BundleInfo
from ml.models.registry import Registry

DIGITS = tuple("0123456789")


def make_bundle(
    folder: Path,
    labels: Sequence[str],
    size: int = 8,
    channels: int = 1,
    seed: int = 0,
    *,
    outputs: int | None = None,
    bias: float = 0.0,
    probe_shift: float = 0.0,
    weights: np.ndarray | None = None,
) -> str:
    """Write a bundle whose logits are a seeded linear map of ``uint8[N, size, size, channels] / 255``.

    Args:
        outputs: logits that the graph really gives; None: one a label. Another number is a broken bundle.
        bias: added to the last logit; NaN makes a model whose every answer is NaN.
        probe_shift: added to the recorded probabilities; not 0 is a bundle whose probes fail.
        weights: ``float32[size * size * channels, labels]`` instead of seeded ones.

    Returns:
        The bundle's digest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    width = size * size * channels
    count = len(labels) if outputs is None else outputs
    drawn = rng.normal(0, 4 / width**0.5, (width, count)).astype(np.float32)
    weights = drawn if weights is None else weights
    offset = np.zeros(count, np.float32)
    offset[-1] = bias
    _write_model(folder / bundle.MODEL, weights, offset, size, channels)
    images = rng.integers(0, 256, (4, size, size, channels), dtype=np.uint8)
    logits = (images.reshape(4, -1).astype(np.float32) / 255 @ weights + offset).astype(np.float32)
    expected = bundle.probabilities(logits, 1.0) + np.float32(probe_shift)
    np.savez(folder / bundle.PROBES, images=images, probabilities=expected)
    info = BundleInfo(
        architecture="linear",
        labels=tuple(labels),
        image_size=size,
        channels=channels,
        dataset_version=f"v-{seed:064x}"[:66],
        run_id=f"{seed:032x}",
        code_version="test",
        seed=seed,
        class_shares={label: 1 / len(labels) for label in labels},
        files={},
    )
    return bundle.write(folder, info)


def add_int8(folder: Path, *, speedup: float = 2.0, probe_shift: float = 0.0, graph: bytes | None = None) -> str:
    """A real 8-bit variant for a bundle of `make_bundle`; with a shift or another graph a broken one.

    Returns:
        The bundle's new digest.
    """
    from ml.training import quantise

    info = bundle.parse((folder / bundle.INFO).read_bytes())
    shape = (64, info.image_size, info.image_size, info.channels)
    seen = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    quantise.quantise(folder / bundle.MODEL, folder / bundle.INT8_MODEL, seen)
    report = bundle.Reduced(samples=1, accuracy_loss=0, agreement=1, speedup=speedup)
    bundle.write(folder, info.model_copy(update={"int8": report}))
    images, _ = bundle.load_probes((folder / bundle.PROBES).read_bytes())
    small = model.load(folder, variant="int8")
    here = runtimes.describe(small.runtime.name)
    report = report.model_copy(update={"measured_on": here, "proven_on": (here,)})
    expected = small.predict(images) + np.float32(probe_shift)
    np.savez(folder / bundle.INT8_PROBES, images=images, probabilities=expected)
    if graph is not None:
        (folder / bundle.INT8_MODEL).write_bytes(graph)
    return bundle.write(folder, info.model_copy(update={"int8": report}))


def upload(ctx: Context, folder: Path, version: int = 1) -> str:
    """Put a bundle folder where MLflow would; returns the prefix in the artifacts bucket."""
    prefix = f"{ctx.settings.artifacts_prefix}/{ctx.settings.store_bucket}/{version}/data/{folder.name}"
    for path in folder.iterdir():
        ctx.artifacts.put(f"{prefix}/{path.name}", path.read_bytes())
    return prefix


def deploy(ctx: Context, prefix: str, digest: str, version: int, previous: int | None = None) -> int:
    """A decision by a test and the deployment row it leads to, at once live; returns the deployment's id."""
    with transaction(ctx.engine) as connection:
        decision = f"test-{version}-{connection.exec_driver_sql('select count(*) from decisions').scalar()}"
        connection.execute(
            decisions.insert().values(
                id=decision, model_version=version, verdict="promote", reason="a test says so", actor="operator:test"
            )
        )
        deployment_id = deployments.begin(
            connection,
            model_version=version,
            previous_version=previous,
            decision_id=decision,
            bundle_prefix=prefix,
            bundle_digest=digest,
        )
        deployments.end(connection, deployment_id, "live")
    return deployment_id


def make_live(ctx: Context, registry: Registry, version: int, decision_id: str | None = None) -> None:
    """Deploy a registered version by a decision of the gate, and point the alias champion at it."""
    location = ctx.registry.bundle(version)
    with transaction(ctx.engine) as connection:
        count = connection.exec_driver_sql("select count(*) from decisions").scalar()
        decision = decision_id or f"live-{version}-{count}"
        given = Decision(decision, version, None, None, "promote", "a test says so", "gate", {})
        record(connection, given)
        deployment_id = deployments.begin(
            connection,
            model_version=version,
            decision_id=decision,
            bundle_prefix=location.prefix,
            bundle_digest=location.digest,
        )
        deployments.end(connection, deployment_id, "live")
    registry.set_alias("champion", version)


def deployed(ctx: Context, folder: Path, version: int = 1, seed: int = 1) -> int:
    """A bundle for `DIGITS` made in the folder, uploaded and live; returns the deployment's id."""
    target = folder / f"bundle-{version}"
    digest = make_bundle(target, DIGITS, seed=seed)
    return deploy(ctx, upload(ctx, target, version), digest, version)


def loaded(folder: Path) -> model.Model:
    """The bundle's model, to compute expected answers with."""
    return model.load(folder)


def _write_model(path: Path, weights: np.ndarray, offset: np.ndarray, size: int, channels: int) -> None:
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["floats", "scale"], ["scaled"]),
        helper.make_node("Flatten", ["scaled"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "weights", "offset"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", size, size, channels])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", weights.shape[1]])],
        [
            numpy_helper.from_array(np.asarray(255, np.float32), "scale"),
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(offset, "offset"),
        ],
    )
    onnx_model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(onnx_model)
    onnx.save(onnx_model, str(path))
