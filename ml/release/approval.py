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

    If the champion changed meanwhile, the cycles go on with another decision, and this one has no effect any more.
    Idempotent and safe to run concurrently.

    Raises:
        NotFoundError: there is no such decision, or its version was deleted from the registry.
        ConflictError: another deployment is running, and there is no open cycle to record that in.
        UnavailableError: a server does not answer.
    """
    open_cycles = approvals.open_cycles(ctx.engine, decision_id)
    if open_cycles:
        return [release(ctx, decision_id, cycle_id=cycle) for _, cycle in open_cycles][-1]
    try:
        return release(ctx, decision_id)
    except ChampionChangedError as error:
        log.warning("%s; its cycle went on without it", error)
        return None


def process_pending(ctx: Context) -> list[str]:
    """Reject expired decisions, apply answers not yet applied, finish open cycles; return the decisions applied.

    Also corrects what people changed in the registry, unless a deployment is running, which does that itself.
    """
    approvals.expire(ctx.engine, ctx.settings.gate_review_hours)
    applied = []
    for decision, _ in approvals.open_cycles(ctx.engine):
        if approvals.find(ctx.engine, decision) is not None and decision not in applied:
            apply_approval(ctx, decision)
            applied.append(decision)
    finish_open_cycles(ctx)
    with suppress(ConflictError), advisory_lock(ctx.engine, LOCK, wait=False):
        repair_registry(ctx)
    return applied
