"""Two processes under `torchrun` learn what one learns, and go on when one of them is killed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def learn(folder: Path, processes: int, *more: str) -> dict[str, Any]:
    folder.mkdir()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts", "2"]
    command = [*launcher, "--nproc-per-node", str(processes), "-m", "tests.spread_process", str(folder), *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads((folder / "done.json").read_text())
    return found


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
