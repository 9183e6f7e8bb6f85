"""The Kubernetes manifest for training: it hangs together, and what its pods run trains, also when a pod dies."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from ml.settings import PREFIX, Settings
from ml.training.loop import placement
from tests.servers import free_port, wait_until

MANIFEST = Path("infra/kubernetes/training.yaml")


@pytest.fixture(scope="module")
def parts() -> dict[str, dict[str, Any]]:
    return {part["kind"]: part for part in yaml.safe_load_all(MANIFEST.read_text())}


def container(parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    (one,) = parts["Job"]["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = one
    return found


def options(parts: dict[str, dict[str, Any]]) -> dict[str, str]:
    given = [argument for argument in container(parts)["args"] if argument.startswith("--")]
    return dict(argument.removeprefix("--").split("=", 1) for argument in given)


def test_pods_find_each_other(parts: dict[str, dict[str, Any]]) -> None:
    service, job = parts["Service"], parts["Job"]["spec"]
    pod = job["template"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert pod["spec"]["subdomain"] == service["metadata"]["name"]
    (port,) = (p["port"] for p in service["spec"]["ports"])
    first = f"{parts['Job']['metadata']['name']}-0.{service['metadata']['name']}"  # an Indexed Job names its pods so
    assert options(parts)["rdzv-endpoint"] == f"{first}:{port}"
    assert job["completionMode"] == "Indexed"
    least, most = map(int, options(parts)["nnodes"].split(":"))
    assert least == 1
    assert most == job["completions"] == job["parallelism"]
    assert pod["spec"]["restartPolicy"] == "OnFailure"  # a new container, the pod's name stays


def test_what_it_names_exists(parts: dict[str, dict[str, Any]]) -> None:
    one = container(parts)
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


def pod_volumes(parts: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = parts["Job"]["spec"]["template"]["spec"]["volumes"]
    return found


def test_it_needs_no_rights_and_holds_no_secret(parts: dict[str, dict[str, Any]]) -> None:
    pod, one = parts["Job"]["spec"]["template"]["spec"], container(parts)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert one["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert not [e["name"] for e in one["env"] if any(word in e["name"] for word in ("KEY", "PASSWORD", "DATABASE"))]
    assert "/" not in one["image"], "no registry is named"


def test_the_command_trains_on_and_a_pod_that_dies_comes_back(parts: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """Two pods on this machine, the second one killed with all its processes in the middle, then started again."""
    whole = _trained(parts, tmp_path / "whole", killed=False)
    again = _trained(parts, tmp_path / "again", killed=True)
    assert again["curve"] == whole["curve"]
    for name, value in whole["state"].items():
        assert np.array_equal(again["state"][name], value), name


def _trained(parts: dict[str, dict[str, Any]], folder: Path, *, killed: bool) -> dict[str, Any]:
    folder.mkdir()
    changed = {
        "nnodes": "2:2",  # so that both runs are of two pods to the end
        "rdzv-endpoint": f"127.0.0.1:{free_port()}",
        "rdzv-id": folder.name,
        "local-addr": "127.0.0.1",
    }
    arguments = [f"--{name}={value}" for name, value in (options(parts) | changed).items()]
    more = [str(folder), *(["waits"] if killed else [])]
    command = [sys.executable, "-m", "torch.distributed.run", *arguments, "-m", "tests.spread_process", *more]
    pods = [_pod(command, folder) for _ in range(2)]
    try:
        if killed:
            _until(lambda: (folder / "waiting").exists())
            (folder / "waiting").rename(folder / "killed")
            _kill(pods[1])
        _until(lambda: _all_done(pods, command, folder))
    finally:
        for pod in pods:
            if pod.poll() is None:
                _kill(pod)
    found: dict[str, Any] = json.loads((folder / "done.json").read_text())
    assert found["world"] == 2
    return found


def _pod(command: list[str], folder: Path) -> "subprocess.Popen[bytes]":
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, env=os.environ | placement.STORE_ENVIRONMENT, stdout=log, stderr=log)


def _kill(pod: "subprocess.Popen[bytes]") -> None:
    """The agent first, so that it starts nothing anew; its workers are in sessions of their own."""
    workers = psutil.Process(pod.pid).children(recursive=True)
    pod.kill()
    for worker in workers:
        with suppress(psutil.NoSuchProcess):
            worker.kill()
    pod.wait()


def _all_done(pods: "list[subprocess.Popen[bytes]]", command: list[str], folder: Path) -> bool:
    """Whether all ended well; one that did not is started again, as Kubernetes does (`restartPolicy: OnFailure`)."""
    for number, pod in enumerate(pods):
        if pod.poll() not in (None, 0):
            pods[number] = _pod(command, folder)
    return all(pod.poll() == 0 for pod in pods)


def _until(condition: Callable[[], bool]) -> None:
    wait_until(condition, seconds=400, what="pods")
