"""Reloads under fire: no request fails, none is answered by a mix, and a bad bundle changes nothing."""

import json
from pathlib import Path

import numpy as np
import pytest

from ml.context import Context
from ml.imaging import images
from ml.imaging.images import Limits
from ml.models import bundle
from tests.bundles import deploy, loaded, make_bundle, upload
from tests.pictures import digits
from tests.serving_process import Hammer, replica_rows, service, wait_logged, wait_replicas

IMAGES = [data for _, data in digits()[:30]]
MODELS = {
    1: {"labels": ("ant", "bee", "cat"), "size": 8, "channels": 1, "seed": 1},
    2: {"labels": tuple(f"class {n}" for n in range(7)), "size": 16, "channels": 3, "seed": 2},
}


def expected(folder: Path) -> list[dict[str, float]]:
    """Label to probability, for each image."""
    model = loaded(folder)
    info, limits = model.info, Limits(10**6, 10**6)
    inputs = np.stack([images.decode(data, info.image_size, info.channels, limits) for data in IMAGES])
    return [dict(zip(info.labels, map(float, row), strict=True)) for row in model.predict(inputs)]


def test_ten_reloads_under_fire(context: Context, tmp_path: Path) -> None:
    bundles = {}
    for version, options in MODELS.items():
        digest = make_bundle(tmp_path / f"b{version}", **options)  # type: ignore[arg-type]
        bundles[version] = (upload(context, tmp_path / f"b{version}", version), digest)
    truth = {version: expected(tmp_path / f"b{version}") for version in MODELS}
    deploy(context, *bundles[1], version=1)
    with service(context.settings, tmp_path) as started:
        started.wait_ready()
        with Hammer(started.url, IMAGES).swinging(6) as hammer:
            for reload in range(10):
                version = 2 - reload % 2
                deployment = deploy(context, *bundles[version], version=version)
                wait_replicas(context, lambda row, d=deployment: row["deployment_id"] == d)  # type: ignore[misc]
                hammer.wait_for(60)
        assert hammer.failures == []
        for answer in hammer.answers:
            right = truth[answer["model_version"]][answer["image"]]
            best = sorted(right, key=right.__getitem__, reverse=True)[:5]
            assert [t["label"] for t in answer["top"]] == best
            assert [t["probability"] for t in answer["top"]] == pytest.approx([right[b] for b in best], abs=2e-6)
            assert answer["label"] == best[0]
        assert {a["model_version"] for a in hammer.answers} == {1, 2}
        wait_logged(context, hammer)


def test_bad_bundles_are_refused_and_the_old_model_serves(context: Context, tmp_path: Path) -> None:
    good = make_bundle(tmp_path / "good", ("a", "b"), seed=1)
    deploy(context, upload(context, tmp_path / "good"), good, version=1)
    with service(context.settings, tmp_path) as started, Hammer(started.url, IMAGES).swinging(2) as hammer:
        started.wait_ready()
        hammer.failures.clear()  # those from before there was a model
        for number, (name, words) in enumerate(BAD.items(), start=2):
            prefix, digest = bad(context, tmp_path, name, number)
            refused = deploy(context, prefix, digest, version=number)
            wait_replicas(context, lambda row, d=refused: row["failed_deployment_id"] == d)  # type: ignore[misc]
            for row in replica_rows(context):
                assert words in row["error"], name
                assert row["model_version"] == 1, name
            hammer.wait_for(20)
        back = deploy(context, upload(context, tmp_path / "good", 9), good, version=9)
        wait_replicas(context, lambda row: row["deployment_id"] == back and row["failed_deployment_id"] is None)
        hammer.wait_for(20)
    assert hammer.failures == []
    assert {a["model_version"] for a in hammer.answers} == {1, 9}


BAD = {
    "a changed byte": "SHA-256",
    "cut off": "SHA-256",
    "not there": "does not exist",
    "wrong shape": "takes and gives",
    "not a number": "probes",
    "other probes": "probes differ",
    "labels twice": "not distinct",
    "no schema": "schema",
}


def bad(context: Context, folder: Path, name: str, number: int) -> tuple[str, str]:
    target = folder / f"bad-{number}"
    options: dict[str, dict[str, object]] = {
        "wrong shape": {"outputs": 5},
        "not a number": {"bias": float("nan")},
        "other probes": {"probe_shift": 0.02},
        "labels twice": {"labels": ("a", "a")},
    }
    digest = make_bundle(target, **({"labels": ("a", "b"), "seed": number} | options.get(name, {})))  # type: ignore[arg-type]
    model = target / bundle.MODEL
    if name == "a changed byte":
        data = bytearray(model.read_bytes())
        data[-9] ^= 1
        model.write_bytes(data)
    elif name == "cut off":
        model.write_bytes(model.read_bytes()[:-20])
    elif name == "no schema":
        text = json.dumps(json.loads((target / bundle.INFO).read_text()) | {"surprise": 1})
        (target / bundle.INFO).write_text(text)
        digest = bundle.digest(text.encode())
    prefix = upload(context, target, number)
    return (f"{prefix}-elsewhere" if name == "not there" else prefix), digest
