"""Applies approvals, however they were recorded: deploys approved models and closes rejected cycles."""

import logging
from contextlib import suppress

from ml.catalog import approvals
from ml.catalog.engine import advisory_lock
from ml.context import Context
from ml.errors import ConflictError
from ml.release.deploy import LOCK, ChampionChangedError, Deployment, repair_registry
from ml.release.release import finish_open_cycles, release

log = logging.getLogger(__name__)


def apply_approval(ctx: Context, decision_id: str) -> Deployment | None:
    """Release the approved model, or finish the cycles of a rejected one; None if nothing was released.

    Idempotent and safe to run concurrently.

    Raises:
        NotFoundError: there is no such decision, or its version was deleted from the registry.
        ConflictError: the champion changed meanwhile, and there is no open cycle to record that in.
        UnavailableError: a server does not answer.
    """
    open_cycles = approvals.open_cycles(ctx.engine, decision_id)
    deployments = [release(ctx, decision_id, cycle_id=cycle) for _, cycle in open_cycles]
    return deployments[-1] if deployments else release(ctx, decision_id)


def process_pending(ctx: Context) -> list[str]:
    """Reject expired decisions, apply answers not yet applied, finish open cycles; return the decisions applied.

    Also corrects what people changed in the registry, unless a deployment is running, which does that itself.
    """
    approvals.expire(ctx.engine, ctx.settings.gate_review_hours)
    applied = []
    for decision, _ in approvals.open_cycles(ctx.engine):
        if approvals.find(ctx.engine, decision) is not None and decision not in applied:
            try:
                apply_approval(ctx, decision)
            except ChampionChangedError as error:  # another process judged the model again meanwhile
                log.info("decision %s was replaced: %s", decision, error)
            applied.append(decision)
    finish_open_cycles(ctx)
    with suppress(ConflictError), advisory_lock(ctx.engine, LOCK, wait=False):
        repair_registry(ctx)
    return applied
