"""Kill -9 a training anywhere, run it again: the same weights, bit for bit."""

import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ml.training.loop.checkpoint import Checkpoint
from ml.training.loop.fit import FitResult, fit
from ml.training.loop.placement import Placement
from ml.training.loop.recipe import Recipe
from ml.training.network import networks
from tests import forked
from tests.pictures import digits

RECIPE = Recipe(epochs=4, patience=9, batch_size=16, learning_rate=2e-3, seed=5, flips=True, ema=0.9, mix="mixup")


def material() -> tuple[np.ndarray, np.ndarray]:
    """200 digits of 24 px, some noise for colour."""
    from ml.imaging import images

    limits = images.Limits(10**6, 10**6)
    x = np.stack([images.decode(data, 24, 3, limits) for _, data in digits()[:200]])
    return x, np.asarray([int(label) for label, _ in digits()[:200]], np.int64)


def learn(folder: Path | None, wait: float = 0.0) -> FitResult:
    """A whole training; with a `folder`, its state is written after each step, and each takes `wait` seconds more."""
    x, y = material()
    checkpoint = Slow(folder / "state.pt", "this one", interval=0.0) if folder else None
    if checkpoint:
        checkpoint.wait = wait
    network = networks.seeded(3, 10, 24, 3)
    return fit(network, (x[:160], y[:160]), (x[160:], y[160:]), RECIPE, checkpoint=checkpoint)


class Slow(Checkpoint):
    wait = 0.0

    def write(self, state: dict[str, Any]) -> None:
        super().write(state)
        time.sleep(self.wait)


def _child(folder: Path) -> None:
    fitted = learn(folder, wait=0.05)  # few steps pass between two looks of a parent that is late
    torch.save(fitted.network.state_dict(), folder / "weights.part")
    (folder / "weights.part").rename(folder / "weights.pt")


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_points_it_ends_with_the_same_weights(seed: int, tmp_path: Path) -> None:
    whole, dice, kills, seen = learn(None), random.Random(seed), 0, set[tuple[int, int]]()
    for _ in range(60):
        child = forked.started(_child, tmp_path)
        if kills < 3:
            _wait_for_progress(tmp_path, child, dice.randrange(1, 10), dice.random() * 0.03)
            if child.is_alive() and child.pid:
                os.kill(child.pid, signal.SIGKILL)
                kills += 1
        child.join()
        state = Checkpoint(tmp_path / "state.pt", "this one", 0).read()
        assert state is not None
        seen.add((state["standing"]["epoch"], state["standing"]["step"]))
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
    assert kills == 3
    assert len(seen) >= 3, seen  # it was ahead a little at each kill, never back at the start
    weights = torch.load(tmp_path / "weights.pt", weights_only=True)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(weights[name], value), name


def _wait_for_progress(folder: Path, child: BaseProcess, writes: int, more: float) -> None:
    """Until the state was written `writes` times, and a little longer: in the middle of a step, or of a write."""
    path, last, written = folder / "state.pt", _stamp(folder / "state.pt"), 0
    while written < writes and child.is_alive():
        if (now := _stamp(path)) != last:
            last, written = now, written + 1
        time.sleep(0.001)
    time.sleep(more)


def _stamp(path: Path) -> int:
    return path.stat().st_ino if path.exists() else 0


def test_a_finished_training_is_not_done_again_and_its_epochs_are_told_again(tmp_path: Path) -> None:
    first = learn(tmp_path)
    x, y = material()
    epochs: list[int] = []
    checkpoint = Checkpoint(tmp_path / "state.pt", "this one", 0)
    network = networks.seeded(3, 10, 24, 3)
    again = fit(
        network, (x[:160], y[:160]), (x[160:], y[160:]), RECIPE, lambda e, *_: epochs.append(e), checkpoint=checkpoint
    )
    assert epochs == [1, 2, 3, 4]
    assert again.history == first.history
    assert torch.equal(again.network.state_dict()["head.weight"], first.network.state_dict()["head.weight"])


def test_a_state_of_another_training_or_half_a_state_is_no_state(tmp_path: Path) -> None:
    mine = Checkpoint(tmp_path / "state.pt", "mine", 0)
    assert mine.read() is None
    mine.write({"a": torch.ones(3)})
    state = mine.read()
    assert state is not None
    assert torch.equal(state["a"], torch.ones(3))
    assert Checkpoint(mine.path, "another", 0).read() is None
    mine.path.write_bytes(mine.path.read_bytes()[:100])
    assert mine.read() is None
    mine.remove()
    assert list(tmp_path.iterdir()) == []


def test_one_alone_has_everything() -> None:
    assert np.arange(5)[Placement().shard].tolist() == [0, 1, 2, 3, 4]
    assert np.arange(5)[Placement(1, 2).shard].tolist() == [1, 3]
