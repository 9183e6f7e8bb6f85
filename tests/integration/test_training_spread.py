"""Two processes under `torchrun` learn what one learns, and go on when one of them is killed."""

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

from ml.catalog import cycles
from ml.context import Context
from ml.errors import InvalidInputError
from ml.ingest import ingest
from ml.models import bundle, model
from ml.settings import PREFIX
from ml.training import spread
from ml.training.loop import placement
from tests import manifest
from tests.environment import environment
from tests.pictures import digit_files, upload
from tests.servers import free_port, wait_until


def learn(folder: Path, processes: int, *more: str) -> dict[str, Any]:
    """What came of it."""
    folder.mkdir()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts", "2"]
    command = [*launcher, "--nproc-per-node", str(processes), "-m", "tests.spread_process", str(folder), *more]
    env = os.environ | placement.STORE_ENVIRONMENT
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads((folder / "done.json").read_text())
    return result


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return learn(tmp_path_factory.mktemp("spread") / "two", 2)


def test_two_processes_give_the_loss_curve_of_one(two: dict[str, Any], tmp_path: Path) -> None:
    one = learn(tmp_path / "one", 1)
    assert (one["world"], two["world"]) == (1, 2)
    for name in ("train_loss", "validation_loss"):
        expected = [row[name] for row in one["curve"]]
        assert len(set(expected)) == 3, "it learns something"
        assert [row[name] for row in two["curve"]] == pytest.approx(expected, rel=2e-3), name


def test_a_killed_process_is_replaced_and_the_training_ends_as_if_it_had_not_been(
    two: dict[str, Any], tmp_path: Path
) -> None:
    again = learn(tmp_path / "again", 2, "falls")
    assert (tmp_path / "again" / "fallen").exists()
    assert again["curve"] == two["curve"]
    for name, value in two["state"].items():
        assert np.array_equal(again["state"][name], value), name


def test_the_whole_stage_under_torchrun_gives_one_challenger(context_with_mlflow: Context) -> None:
    ctx = context_with_mlflow
    version = ingest(ctx, upload(ctx, "one", digit_files(0, 400))).version
    assert version
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "ml.training.spread", "c-spread", version]
    plain = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
    for _ in range(2):  # the second time finds it done
        done = subprocess.run(
            command,
            env=plain | environment(ctx.settings) | placement.STORE_ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    (challenger,) = ctx.registry.find()
    assert challenger.run_id is not None
    row = cycles.get(ctx.engine, "c-spread")
    assert (row.model_version, row.run_id) == (int(challenger.version), challenger.run_id)
    assert ctx.registry.alias("challenger") == int(challenger.version)
    run = ctx.tracking.get_run(challenger.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["final_validation_accuracy"] > 0.6
    assert len(ctx.tracking.search_runs([run.info.experiment_id])) == 1, "the leader alone writes"
    place = ctx.registry.bundle(int(challenger.version))
    bundle.fetch(ctx.artifacts, place.prefix, place.digest, ctx.settings.home / "fetched")
    model.check_probes(model.load(ctx.settings.home / "fetched"), ctx.settings.home / "fetched", 1e-4)
    assert not list((ctx.settings.home / "cache" / "training").iterdir()), "the checkpoint is gone"


@pytest.mark.parametrize("arguments", [[], ["cycle"], ["cycle", "version", "often"], ["cycle", "version", "full", "x"]])
def test_wrong_arguments_are_said(arguments: list[str]) -> None:
    with pytest.raises(InvalidInputError, match="expected a cycle, a dataset version"):
        spread.run(arguments, {})


def test_attempts_that_would_share_a_store_are_refused() -> None:
    variables = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    with (
        pytest.raises(InvalidInputError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"),
        placement.join_process_group(variables),
    ):
        pass


def test_the_manifests_command_trains_alike_and_a_pod_that_dies_comes_back(two: dict[str, Any], tmp_path: Path) -> None:
    """Two pods on this machine, the second one killed with all its processes in the middle, then started again."""
    again = _trained_by_pods(tmp_path)
    assert (again["world"], again["curve"]) == (2, two["curve"])
    for name, value in two["state"].items():
        assert np.array_equal(again["state"][name], value), name


def _trained_by_pods(folder: Path) -> dict[str, Any]:
    changed = {
        "nnodes": "2:2",  # so that it is of two pods to the end
        "rdzv-endpoint": f"127.0.0.1:{free_port()}",
        "rdzv-id": folder.name,
        "local-addr": "127.0.0.1",
    }
    arguments = [f"--{name}={value}" for name, value in (manifest.options(manifest.read()) | changed).items()]
    launcher = [sys.executable, "-m", "torch.distributed.run", *arguments]
    command = [*launcher, "-m", "tests.spread_process", str(folder), "waits"]
    pods = [_pod(command, folder) for _ in range(2)]
    try:
        _until(lambda: (folder / "waiting").exists())
        (folder / "waiting").rename(folder / "killed")
        _kill(pods[1])
        _until(lambda: _all_done(pods, command, folder))
    finally:
        for pod in pods:
            if pod.poll() is None:
                _kill(pod)
    result: dict[str, Any] = json.loads((folder / "done.json").read_text())
    return result


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
