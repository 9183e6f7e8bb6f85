"""A process of a training that several share, for tests: `torchrun … -m tests.spread_process OUT [falls|waits]`."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ml.training.loop import placement
from ml.training.loop.checkpoint import Checkpoint
from ml.training.loop.fit import fit
from ml.training.loop.placement import Placement
from ml.training.loop.recipe import Recipe
from ml.training.network import networks

RECIPE = Recipe(epochs=3, patience=9, batch_size=30, learning_rate=2e-3, seed=5, flips=True)


def material() -> tuple[np.ndarray, np.ndarray]:
    """Bright and dark halves, with noise."""
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 4
    images = generator.integers(0, 200, (200, 24, 24, 3), np.uint8)
    for i, label in enumerate(labels):
        images[i, 12 * (label // 2) : 12 * (label // 2 + 1), 12 * (label % 2) : 12 * (label % 2 + 1)] += 55
    return images, labels.astype(np.int64)


def main(folder: Path, mishap: str) -> None:
    """Train; in the second epoch the last process once kills itself, or all once wait to be killed."""
    Placement.bf16_pays = lambda self: False  # type: ignore[method-assign]  # rounding would hide a difference
    x, y = material()
    network = networks.seeded(3, 4, 24, 3)
    network.dropout = nn.Dropout(0)  # each process draws its own mask
    with placement.join_process_group(os.environ) as place:
        fallen = folder / "fallen"

        def told(epoch: int, *_: object) -> None:
            if mishap == "falls" and epoch == 2 and place.rank == place.world_size - 1 and not fallen.exists():
                fallen.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if mishap == "waits" and epoch == 2 and not (folder / "killed").exists():
                (folder / "waiting").touch()
                time.sleep(600)

        checkpoint = Checkpoint(folder / "state.pt", "this one", 0.0)
        done = fit(network, (x[:150], y[:150]), (x[150:], y[150:]), RECIPE, told, checkpoint=checkpoint, place=place)
        if place.is_leader:
            state = {k: v.tolist() for k, v in done.network.state_dict().items()}
            (folder / "done.json").write_text(
                json.dumps({"world": place.world_size, "curve": done.history, "state": state})
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
