"""Distributed training on several devices and hosts: the program that `torchrun` starts in each process.

    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    torchrun --nproc-per-node 4 --max-restarts 3 -m ml.training.spread CYCLE VERSION [auto|refresh|full]

Every process reads the same settings; only the leader writes to MLflow and the registry. If a process dies,
`torchrun` restarts all of them with the processes that are left, and they resume from the leader's checkpoint.
"""

import os
import sys
from collections.abc import Mapping, Sequence

from ml.catalog import cycles
from ml.context import connect
from ml.errors import InvalidInputError
from ml.settings import Settings
from ml.training.loop import placement
from ml.training.train import TrainedModel, train


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> TrainedModel:
    """Train for a cycle, which is opened if it does not exist.

    Raises:
        InvalidInputError: the arguments are not a cycle, a dataset version and optionally a mode.
    """
    cycle_id, version, mode = [*arguments, "auto"][:3] if len(arguments) >= 2 else ("", "", "")
    if mode not in ("auto", "refresh", "full") or len(arguments) > 3:
        raise InvalidInputError(
            f"expected a cycle, a dataset version and optionally auto, refresh or full; received {arguments}"
        )
    with placement.join_process_group(environ) as place:
        ctx = connect(Settings.load(environ))
        if place.is_leader:
            cycles.open_cycle(ctx.engine, cycle_id, "manual")
        return train(ctx, version, cycle_id=cycle_id, mode=mode, place=place)  # type: ignore[arg-type]


if __name__ == "__main__":
    model = run(sys.argv[1:], os.environ)
    sys.stdout.write(f"version {model.model_version}, run {model.run_id}\n")
