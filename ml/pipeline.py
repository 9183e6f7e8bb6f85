"""One full cycle in this process, using the same functions as the Airflow tasks."""

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

from ml.catalog import cycles
from ml.catalog.cycles import CycleRecord
from ml.context import Context
from ml.errors import InvalidInputError
from ml.intake.find import find_ready
from ml.training import due

if TYPE_CHECKING:
    from ml.training.data.feed import Progress

_PAUSE = 1.0

OnStage = Callable[[str, str], None]


def run_cycle(
    ctx: Context,
    prefix: str | None = None,
    *,
    on_stage: OnStage,
    progress: "Progress | None" = None,
    retrain: bool = False,
) -> CycleRecord:
    """Ingest, train, decide and release; return the cycle.

    Args:
        prefix: the drop; None selects the ready drop that has waited longest.
        on_stage: called with the name and the result of each stage.
        progress: called after each training epoch.
        retrain: ingest no drop; train again on the newest dataset version.

    Raises:
        InvalidInputError: no drop is ready, or there is no dataset version to retrain on.
    """
    cycle_id, version = _retrain(ctx) if retrain else _ingest(ctx, prefix, on_stage)
    if version is not None:
        # Here, since they take seconds to import: whoever forgot the drop hears of it at once.
        from ml.gate.decide import decide
        from ml.release import trial
        from ml.release.release import release
        from ml.training.train import train

        model = train(ctx, version, cycle_id=cycle_id, progress=progress)
        on_stage("train", f"version {model.model_version}")
        decision = decide(ctx, model.model_version, cycle_id=cycle_id)
        on_stage("gate", f"{decision.verdict}: {decision.reason}")
        deployment = release(ctx, decision.id, cycle_id=cycle_id)
        if deployment is not None and deployment.status == "trial":
            on_stage("trial", f"version {deployment.model_version} as a {deployment.strategy}")
            trial.wait(ctx, deployment.id, _PAUSE)
            deployment = release(ctx, decision.id, cycle_id=cycle_id)
        if deployment is not None:
            on_stage("release", f"{deployment.status} on {deployment.replicas} replicas")
    return cycles.get(ctx.engine, cycle_id)


def _retrain(ctx: Context) -> tuple[str, str]:
    if (chosen := due.choose(ctx, uuid.uuid4().hex[:16])) is None:
        raise InvalidInputError("there is no dataset version yet: upload a drop first (`evergreen drop PATH`)")
    return chosen.cycle_id, chosen.dataset_version


def _ingest(ctx: Context, prefix: str | None, on_stage: OnStage) -> tuple[str, str | None]:
    if prefix is None:
        ready = find_ready(ctx)
        if not ready:
            raise InvalidInputError("no drop is ready; upload one with `evergreen drop PATH`, or say `--retrain`")
        prefix = ready[0].prefix
    from ml.ingest import ingest

    result = ingest(ctx, prefix, on_stage)
    return result.drop_id, result.version
