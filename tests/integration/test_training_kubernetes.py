"""The Kubernetes manifest for training hangs together.

That its command trains, also when a pod dies, is tested beside what it is compared to, in test_training_spread.
"""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

from ml.settings import PREFIX, Settings
from ml.training.loop import placement
from tests import manifest
from tests.manifest import Parts


@pytest.fixture(scope="module")
def parts() -> Parts:
    return manifest.read()


def test_pods_find_each_other(parts: Parts) -> None:
    service, job = parts["Service"], parts["Job"]["spec"]
    pod = job["template"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert pod["spec"]["subdomain"] == service["metadata"]["name"]
    (port,) = (p["port"] for p in service["spec"]["ports"])
    first = f"{parts['Job']['metadata']['name']}-0.{service['metadata']['name']}"  # an Indexed Job names its pods so
    assert manifest.options(parts)["rdzv-endpoint"] == f"{first}:{port}"
    assert job["completionMode"] == "Indexed"
    least, most = map(int, manifest.options(parts)["nnodes"].split(":"))
    assert least == 1
    assert most == job["completions"] == job["parallelism"]
    assert pod["spec"]["restartPolicy"] == "OnFailure"  # a new container, the pod's name stays


def test_what_it_names_exists(parts: Parts) -> None:
    one = manifest.container(parts)
    module = one["args"][one["args"].index("-m") + 1]
    assert importlib.util.find_spec(module) is not None
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    given = {entry["name"]: entry["value"] for entry in one["env"]}
    assert given.items() >= placement.STORE_ENVIRONMENT.items()
    assert {name for name in given if name.startswith(PREFIX)} <= known
    Settings.load({name: value for name, value in given.items() if name.startswith(PREFIX)})
    used = {a.removeprefix("$(").removesuffix(")") for a in one["args"] if a.startswith("$(")}
    assert used <= given.keys()
    assert one["image"] == yaml.safe_load(Path("docker-compose.yml").read_text())["x-airflow"]["image"]
    claims = [v["persistentVolumeClaim"]["claimName"] for v in pod_volumes(parts) if "persistentVolumeClaim" in v]
    assert claims == [parts["PersistentVolumeClaim"]["metadata"]["name"]]
    assert parts["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]
    mounts = {m["name"] for m in one["volumeMounts"]}
    assert mounts == {v["name"] for v in pod_volumes(parts)}


def pod_volumes(parts: Parts) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = parts["Job"]["spec"]["template"]["spec"]["volumes"]
    return volumes


def test_it_needs_no_rights_and_holds_no_secret(parts: Parts) -> None:
    pod, one = parts["Job"]["spec"]["template"]["spec"], manifest.container(parts)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert one["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert not [e["name"] for e in one["env"] if any(word in e["name"] for word in ("KEY", "PASSWORD", "DATABASE"))]
    assert "/" not in one["image"], "no registry is named"
