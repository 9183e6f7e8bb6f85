"""One training on many devices and hosts: what `torchrun` starts on each.

    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    torchrun --nproc-per-node 4 --max-restarts 3 -m ml.training.spread CYCLE VERSION [auto|refresh|full]

Every process reads the same settings; the leader alone writes to MLflow and the registry. A process
that dies makes `torchrun` start all of them anew, in whatever number is left, and they go on from the
leader's checkpoint.
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
    """Train for a cycle, which is opened if it is not there.

    Raises:
        InvalidInputError: the arguments are not a cycle, a dataset version and perhaps a mode.
    """
    cycle_id, version, mode = [*arguments, "auto"][:3] if len(arguments) >= 2 else ("", "", "")
    if mode not in ("auto", "refresh", "full") or len(arguments) > 3:
        raise InvalidInputError(f"wanted are a cycle, a dataset version and auto, refresh or full; got {arguments}")
    with placement.joined(environ) as place:
        ctx = connect(Settings.load(environ))
        if place.leads:
            cycles.open_cycle(ctx.engine, cycle_id, "manual")
        return train(ctx, version, cycle_id=cycle_id, mode=mode, place=place)  # type: ignore[arg-type]


if __name__ == "__main__":
    made = run(sys.argv[1:], os.environ)
    sys.stdout.write(f"version {made.model_version}, run {made.run_id}\n")
