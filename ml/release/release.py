"""The release stage: a promote decision becomes a live model."""

import logging

from sqlalchemy import func, update

from ml.catalog import approvals, cycles, decisions, deployments
from ml.catalog.decisions import Decision
from ml.catalog.engine import transaction
from ml.catalog.tables import cycles as cycles_table
from ml.context import Context
from ml.errors import ConflictError
from ml.release import trial
from ml.release.deploy import Deployment, move

log = logging.getLogger(__name__)


def release(ctx: Context, decision_id: str, *, cycle_id: str | None = None) -> Deployment | None:
    """Deploy what a decision promotes, or a person approved; None for a decision that promotes nothing, or not yet.

    Running again after a crash finishes or finds what was begun; running again later only tells what
    became of it. A trial is begun, or looked at and perhaps ended, but not waited for. The outcome is noted
    in the cycle.

    Raises:
        NotFoundError: no such decision, or its version is gone from the registry.
        ConflictError: the champion has changed since; with a cycle it is noted there instead.
        UnavailableError: a server does not answer.
    """
    decision = decisions.get(ctx.engine, decision_id)
    reason = decision.reason
    if decision.verdict == "needs_person":
        said = approvals.find(ctx.engine, decision_id)
        if said is None:
            return None
        reason = f"{approvals.words(said)} ({decision.reason})"
        if not said.approved and cycle_id is not None:
            _finish(ctx, cycle_id, "reject", reason, live=False)
        if not said.approved:
            return None
    if decision.verdict == "reject":
        return None
    if cycle_id is None:
        return _move(ctx, decision)
    try:
        with cycles.stage(ctx.engine, cycle_id, "release"):
            done = _move(ctx, decision)
    except ConflictError as error:
        _finish(ctx, cycle_id, "reject", str(error), live=False)
        return None
    if done.status == "trial":
        return done
    if done.status != "failed":  # superseded: it was live, then came another
        _finish(ctx, cycle_id, "promote", reason, live=True)
    else:
        _finish(ctx, cycle_id, "reject", f"the release was undone: {done.reason}", live=False)
    return done


def finish(ctx: Context) -> None:
    """Look at the trial that is going on, if there is one, and note in their cycles what became of those before."""
    trial.step(ctx)
    for decision_id, cycle_id in cycles.deployed(ctx.engine):
        release(ctx, decision_id, cycle_id=cycle_id)


def _move(ctx: Context, decision: Decision) -> Deployment:
    known = deployments.of_decision(ctx.engine, decision.id)
    if known is not None and known["status"] == "trial":
        trial.step(ctx)
    return move(ctx, decision, decision.champion_version, ctx.settings.release_strategy)


def _finish(ctx: Context, cycle_id: str, verdict: str, reason: str, *, live: bool) -> None:
    values = {
        "verdict": verdict,
        "reason": reason,
        "finished_at": func.coalesce(cycles_table.c.finished_at, func.now()),
    }
    if live:
        values["live_at"] = func.coalesce(cycles_table.c.live_at, func.now())
    with transaction(ctx.engine) as connection:
        connection.execute(update(cycles_table).where(cycles_table.c.id == cycle_id).values(values))
