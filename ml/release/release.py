"""The release stage: deploys the model of a promote decision."""

import logging

from sqlalchemy import func, update

from ml import alerts
from ml.catalog import approvals, cycles, decisions, deployments
from ml.catalog.decisions import Decision
from ml.catalog.engine import transaction
from ml.catalog.tables import cycles as cycles_table
from ml.context import Context
from ml.errors import ConflictError, IntegrityError, NotFoundError
from ml.release import trial
from ml.release.deploy import ChampionChangedError, Deployment, deploy_decision

log = logging.getLogger(__name__)


def release(ctx: Context, decision_id: str, *, cycle_id: str | None = None) -> Deployment | None:
    """Deploy the model of a promoted or approved decision; None if it is rejected or still waits for approval.

    Idempotent: after a crash it completes the deployment; later it returns the outcome. A trial is started or
    advanced, not awaited. The outcome is recorded in the cycle.

    Raises:
        NotFoundError: there is no such decision; or, without a cycle to record that in, its version was deleted from
            the registry.
        ConflictError: another deployment is running, or the champion changed meanwhile. With a cycle, the first is
            recorded there, and after the second the challenger is judged again.
        UnavailableError: a server does not answer.
    """
    decision = decisions.get(ctx.engine, decision_id)
    reason = decision.reason
    if decision.verdict == "needs_person":
        approval = approvals.find(ctx.engine, decision_id)
        if approval is None:
            return None
        reason = f"{approvals.describe(approval)} ({decision.reason})"
        if not approval.approved and cycle_id is not None:
            _finish_cycle(ctx, cycle_id, "reject", reason, live=False)
        if not approval.approved:
            return None
    if decision.verdict == "reject":
        return None
    if cycle_id is None:
        return _deploy(ctx, decision)
    try:
        with cycles.stage(ctx.engine, cycle_id, "release"):
            deployment = _deploy(ctx, decision)
    except ChampionChangedError as error:
        return _decide_again(ctx, decision, cycle_id, error)
    except (ConflictError, NotFoundError) as error:
        _finish_cycle(ctx, cycle_id, "reject", str(error), live=False)
        return None
    if deployment.status == "trial":
        return deployment
    if deployment.status != "failed":  # a superseded deployment was live before
        _finish_cycle(ctx, cycle_id, "promote", reason, live=True)
    else:
        _finish_cycle(ctx, cycle_id, "reject", f"the release was undone: {deployment.reason}", live=False)
    return deployment


def _decide_again(ctx: Context, decision: Decision, cycle_id: str, error: ChampionChangedError) -> Deployment | None:
    """Judge the challenger against the model that is live now; the outcome of a finished cycle stays."""
    from ml.gate.decide import decide  # takes seconds to import

    if cycles.get(ctx.engine, cycle_id).finished_at is not None:
        log.info("cycle %s ended before: %s", cycle_id, error)
        return None
    log.warning("%s; version %d is judged again", error, decision.model_version)
    try:
        again = decide(ctx, decision.model_version, cycle_id=cycle_id, against_new_champion=True)
    except (IntegrityError, NotFoundError) as failure:
        _finish_cycle(ctx, cycle_id, "reject", f"{error}, and it cannot be judged again: {failure}", live=False)
        return None
    if again.verdict == "needs_person":
        question = f"version {again.model_version}: {again.reason}; `evergreen approve {again.id}` or `reject`"
        alerts.alert(ctx.settings, "a model needs a person, since another one became live meanwhile", question)
    return release(ctx, again.id, cycle_id=cycle_id)


def finish_open_cycles(ctx: Context) -> None:
    """Advance the running trial, if any, finish open cycles whose deployment has ended, begin the ones that nobody did.

    The latter are left by a process that died between a second decision and its release.
    """
    trial.advance(ctx)
    open_cycles = cycles.with_ended_deployment(ctx.engine) + cycles.promoted_without_deployment(ctx.engine)
    for decision_id, cycle_id in open_cycles:
        release(ctx, decision_id, cycle_id=cycle_id)


def _deploy(ctx: Context, decision: Decision) -> Deployment:
    earlier = deployments.of_decision(ctx.engine, decision.id)
    if earlier is not None and earlier.status == "trial":
        trial.advance(ctx)
    return deploy_decision(ctx, decision, decision.champion_version, ctx.settings.release_strategy)


def _finish_cycle(ctx: Context, cycle_id: str, verdict: str, reason: str, *, live: bool) -> None:
    values = {
        "verdict": verdict,
        "reason": reason,
        "finished_at": func.coalesce(cycles_table.c.finished_at, func.now()),
    }
    if live:
        values["live_at"] = func.coalesce(cycles_table.c.live_at, func.now())
    with transaction(ctx.engine) as connection:
        connection.execute(update(cycles_table).where(cycles_table.c.id == cycle_id).values(values))
