"""One trip round the loop in this process, on the same functions that Airflow's tasks call."""

import uuid
from collections.abc import Callable
from typing import Any

from ml.catalog import cycles
from ml.context import Context
from ml.datasets import versions
from ml.datasets.ingest import ingest
from ml.errors import InvalidInputError
from ml.gate.decide import decide
from ml.intake.find import find_ready
from ml.release import trial
from ml.release.release import release
from ml.training.data.feed import Progress
from ml.training.train import train

_PAUSE = 1.0

OnStage = Callable[[str, str], None]


def run_cycle(
    ctx: Context,
    prefix: str | None = None,
    *,
    on_stage: OnStage,
    progress: Progress | None = None,
    retrain: bool = False,
) -> dict[str, Any]:
    """Ingest, train, decide, release; the cycle's row at the end.

    Args:
        prefix: the drop; None for the longest waiting ready one.
        on_stage: hears each stage's name and what came of it.
        progress: hears each training epoch.
        retrain: no drop: train anew on the newest dataset version.

    Raises:
        InvalidInputError: no drop is ready, or there is no dataset version to retrain on.
    """
    cycle_id, version = _retrain(ctx) if retrain else _ingest(ctx, prefix, on_stage)
    if cycle_id is None:
        return {"verdict": "stopped", "reason": "this content was finished before"}
    if version is not None:
        made = train(ctx, version, cycle_id=cycle_id, progress=progress)
        on_stage("train", f"version {made.model_version}")
        decision = decide(ctx, made.model_version, cycle_id=cycle_id)
        on_stage("gate", f"{decision.verdict}: {decision.reason}")
        done = release(ctx, decision.id, cycle_id=cycle_id)
        if done is not None and done.status == "trial":
            on_stage("trial", f"version {done.model_version} as a {done.strategy}")
            trial.wait(ctx, done.id, _PAUSE)
            done = release(ctx, decision.id, cycle_id=cycle_id)
        if done is not None:
            on_stage("release", f"{done.status} on {done.replicas} replicas")
    return cycles.get(ctx.engine, cycle_id)


def _retrain(ctx: Context) -> tuple[str, str]:
    newest = versions.latest(ctx)
    if newest is None:
        raise InvalidInputError("there is no dataset version yet: upload a drop first (`evergreen drop PATH`)")
    cycle_id = f"c-{uuid.uuid4().hex[:16]}"
    cycles.open_cycle(ctx.engine, cycle_id, "manual")
    return cycle_id, newest.id


def _ingest(ctx: Context, prefix: str | None, on_stage: OnStage) -> tuple[str | None, str | None]:
    if prefix is None:
        ready = find_ready(ctx)
        if not ready:
            raise InvalidInputError("no drop is ready; upload one with `evergreen drop PATH`, or say `--retrain`")
        prefix = ready[0].prefix
    done = ingest(ctx, prefix, on_stage)
    return done.drop_id, done.version
