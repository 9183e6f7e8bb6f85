"""INT8 behind the real service: it answers where it pays, and gives way to fp32 where it is broken."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ml.catalog import deployments
from ml.context import Context
from ml.models import bundle, model, runtimes
from ml.models.bundle import Variant
from ml.release import verify
from tests.bundles import add_int8, deploy, make_bundle, upload
from tests.serving_process import service, wait_replicas

SIZE, LABELS = 16, tuple("abcdefgh")


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1)).save(buffer, "PNG")
    return buffer.getvalue()


def made(folder: Path, seed: int, **broken: Any) -> str:
    make_bundle(folder, LABELS, SIZE, seed=seed)
    return add_int8(folder, **broken)


def test_int8_answers_and_broken_int8_gives_way(context: Context, tmp_path: Path) -> None:
    cases: dict[str, tuple[dict[str, Any], Variant, str, str]] = {
        "good": ({}, "int8", "serving", ""),
        "no faster": ({"speedup": 1.0}, "fp32", "available", "1.00 times as fast as fp32 here"),
        "other probes": ({"probe_shift": 0.1}, "fp32", "refused", "golden probes differ by up to 0.1"),
        "no graph": ({"graph": b"surely no model"}, "fp32", "refused", "cannot be loaded by openvino"),
    }
    with service(context.settings, tmp_path) as started:
        for version, (name, (broken, expected, status, reason)) in enumerate(cases.items(), 1):
            folder = tmp_path / f"b{version}"
            digest = made(folder, version, **broken)
            deployed = deploy(context, upload(context, folder, version), digest, version)
            wait_replicas(context, lambda r, d=deployed: r["deployment_id"] == d)  # type: ignore[misc]
            model_info = started.get("/v1/model").json()
            assert model_info["variant"] == expected, name
            exact, small = model_info["variants"]
            assert exact["status"] == ("serving" if expected == "fp32" else "available"), name
            assert (small["variant"], small["status"]) == ("int8", status), name
            assert reason in small["reason"], name
            assert small["proven_on"] == [runtimes.describe("openvino")], name
            images, _ = bundle.load_probes((folder / bundle.PROBES).read_bytes())
            answer = started.ask(png(images[0])).json()
            truth = model.load(folder, variant=expected).predict(images[:1])[0]
            assert answer["label"] == LABELS[truth.argmax()]
            assert answer["probability"] == pytest.approx(float(truth.max()), abs=2e-6), name
            seen = context.settings.model_copy(update={"service_url": started.url})
            verify_context = Context(seen, context.engine, context.labels, context.store, context.artifacts)
            record = deployments.get(context.engine, deployed)
            assert record is not None
            assert verify.find_problem(verify_context, record) is None, name
        gone = context.settings.model_copy(update={"service_variant": "fp32"})
    deploy(context, upload(context, tmp_path / "b1", 9), bundle.digest((tmp_path / "b1" / bundle.INFO).read_bytes()), 9)
    with service(gone, tmp_path) as started:
        started.wait_ready()
        assert started.get("/v1/model").json()["variant"] == "fp32"


def test_fp32_and_int8_of_the_test_differ(tmp_path: Path) -> None:
    made(tmp_path, 1)
    images, _ = bundle.load_probes((tmp_path / bundle.PROBES).read_bytes())
    exact, small = (model.load(tmp_path, variant=v).predict(images) for v in ("fp32", "int8"))
    assert not np.allclose(exact, small, atol=1e-5)
    assert np.allclose(exact, small, atol=0.1)
