"""Refresh cycles with 1,000 new images on few and on many stored ones, in turns."""

import tempfile
import time
from pathlib import Path
from typing import Any, Final

from ml.context import Context
from ml.pipeline import run_cycle
from ml.training.train import train
from tests.bench.parts import stored
from tests.bench.report import spread
from tests.servers import mlflow_server, storage

SMALL, LARGE, DROPS = 5_000, 50_000, 5
PAIRS = DROPS - 1
RULES: Final = {"image_size": 32, "patience": 99, "full_every": 0, "gate_min_holdout": 30}
"""No early stop: both sides learn for the same number of epochs."""


def figures() -> dict[str, Any]:
    """Raises FileNotFoundError when the images are not there."""
    small, large = stored.files(SMALL), stored.files(LARGE)
    drops = stored.dealt(stored.files(5_000, stored.DATA.with_name("test.tar")), DROPS)
    seconds: dict[str, dict[str, list[float]]] = {"few": {}, "many": {}}
    with (
        tempfile.TemporaryDirectory(prefix="evergreen-bench-") as folder,
        storage(Path(folder)) as running,
        mlflow_server(running) as url,
        stored.system(running, Path(folder) / "few", "few", url, **RULES) as few,
        stored.system(running, Path(folder) / "many", "many", url, **RULES) as many,
    ):
        _begin(few, small)
        _begin(many, large)
        for number, drop in enumerate(drops):
            pair = [("few", few), ("many", many)]
            for name, ctx in pair if number % 2 else pair[::-1]:
                took = _cycle(ctx, f"drop-{number}", drop)
                for stage, value in took.items() if number else ():  # the first warms caches and imports
                    seconds[name].setdefault(stage, []).append(value)
    ratios = {
        stage: [b / a for a, b in zip(seconds["few"][stage], seconds["many"][stage], strict=True)]
        for stage in ("cycle", "cycle, processor", "train")
    }
    return {
        "scale_ratio": spread(ratios["cycle"]),
        "scale ratio of the train stage": spread(ratios["train"]),
        "scale ratio of processor time": spread(ratios["cycle, processor"]),
        **{f"{stage} on {SMALL} stored, seconds": spread(v) for stage, v in seconds["few"].items()},
        **{f"{stage} on {LARGE} stored, seconds": spread(v) for stage, v in seconds["many"].items()},
    }


def _begin(ctx: Context, drop: stored.Files) -> None:
    """A champion of what is stored, after one epoch: how good it is has no part in what a refresh costs."""
    drop_id, version = stored.stored(ctx, "stored", drop)
    challenger = train(ctx, version, cycle_id=drop_id, epochs=1)
    ctx.registry.set_alias("champion", challenger.model_version)


def _cycle(ctx: Context, name: str, drop: stored.Files) -> dict[str, float]:
    """Seconds of the whole and of its stages."""
    prefix = stored.upload(ctx, name, drop)
    started, used = time.perf_counter(), time.process_time()
    row = run_cycle(ctx, prefix, on_stage=lambda *_: None)
    whole, used = time.perf_counter() - started, time.process_time() - used
    plan = ctx.tracking.get_run(str(row.run_id)).data.params["plan_mode"]
    if plan != "refresh":
        raise RuntimeError(f"the plan was {plan}: {row.reason}")
    ctx.registry.set_alias("champion", row.model_version)  # the next refresh has its own 1,000 to learn, no more
    return {"cycle": whole, "cycle, processor": used, **row.seconds}
