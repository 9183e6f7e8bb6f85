"""Deploys a model version: sets the desired deployment, waits for the replicas, probes the service, or rolls back.

All deployments (by the gate, an operator, a rollback, a passed trial) go through here, one at a time, under an
advisory lock that a killed process releases. The table `deployments` is authoritative; the registry's aliases
follow it, and `repair_registry` corrects what differs from it.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError as ConstraintError

from ml import alerts
from ml.catalog import decisions, deployments
from ml.catalog.decisions import Decision
from ml.catalog.deployments import DeploymentRecord
from ml.catalog.engine import advisory_lock, transaction
from ml.context import Context
from ml.errors import ConflictError, EvergreenError, NotFoundError, UnavailableError
from ml.release import aliases, verify
from ml.settings import Strategy

log = logging.getLogger(__name__)

_POLL = 0.05
LOCK = "mover"
ANY_CHAMPION = -1


class ChampionChangedError(ConflictError):
    """A decision was made against a champion that is not live any more."""


@dataclass(frozen=True)
class Deployment:
    """The outcome of a deployment.

    Attributes:
        status: live, failed, trial, or superseded if a later deployment replaced it.
        replicas: replicas that run it.
        seconds: from the request to the final status.
        acknowledged: seconds until the last replica had loaded it.
    """

    id: int
    model_version: int
    previous_version: int | None
    strategy: str
    status: str
    reason: str | None
    replicas: int
    seconds: float
    acknowledged: float | None = None


def deploy_decision(
    ctx: Context, decision: Decision, expected_champion: int | None = ANY_CHAMPION, strategy: Strategy = "direct"
) -> Deployment:
    """Deploy the decision's model version, or start its trial, and update the aliases.

    A decision is deployed once: later calls return the outcome of that deployment, so that a retry cannot
    undo a later one.

    Args:
        decision: recorded first if it is not stored yet.
        expected_champion: the champion this decision was made against; `ANY_CHAMPION` for operators, who also
            end a running trial.
        strategy: direct is used if nothing is live yet, since there is nothing to compare with.

    Raises:
        ChampionChangedError: the decision was made against another champion.
        ConflictError: another deployment or trial is running.
        NotFoundError: the registry has no such version, or it has no bundle.
        UnavailableError: a server does not answer; `conclude_interrupted` completes or rolls back the deployment.
    """
    return deploy_chosen(ctx, lambda: decision, expected_champion, strategy)


def deploy_chosen(
    ctx: Context,
    choose: Callable[[], Decision],
    expected_champion: int | None = ANY_CHAMPION,
    strategy: Strategy = "direct",
) -> Deployment:
    """As `deploy_decision`, but the decision is made once nothing else can be deployed any more."""
    with advisory_lock(ctx.engine, LOCK):
        conclude_interrupted(ctx)
        repair_registry(ctx)
        decision = choose()
        live, deployment = deployments.live(ctx.engine), deployments.of_decision(ctx.engine, decision.id)
        champion = live.model_version if live else None
        by_operator = expected_champion == ANY_CHAMPION
        if deployment is None and champion == decision.model_version:
            deployment = live
            if by_operator:
                with transaction(ctx.engine) as connection:
                    _stop_trial(connection, decision)
        if deployment is not None:
            return as_deployment(deployment, count_running(ctx, deployment.id), 0.0)
        if not by_operator and expected_champion != champion:
            raise ChampionChangedError(
                f"the champion changed from {expected_champion} to {champion} since decision {decision.id} was made"
            )
        return _deploy(ctx, decision, champion, strategy if live else "direct", by_operator=by_operator)


def conclude_interrupted(ctx: Context) -> None:
    """Conclude a deployment that is rolling though its process died; the caller holds the lock `LOCK`."""
    rolling = deployments.rolling(ctx.engine)
    if rolling is not None:
        log.warning("deployment %s is still rolling, its process died; concluding it", rolling.id)
        conclude(ctx, rolling.id, time.monotonic())


def repair_registry(ctx: Context) -> list[str]:
    """Correct what people changed in the registry; alert and return what that was. The caller holds `LOCK`."""
    try:
        findings = aliases.repair(ctx)
    except UnavailableError as error:
        log.warning("cannot compare the registry with the live deployment: %s", error)
        return []
    if findings:
        alerts.alert(ctx.settings, "the model registry differed from what is live", "; ".join(findings))
    return findings


def _deploy(
    ctx: Context, decision: Decision, champion: int | None, strategy: Strategy, *, by_operator: bool
) -> Deployment:
    started = time.monotonic()
    location = ctx.registry.bundle(decision.model_version)
    if not by_operator:  # whoever deleted a challenger does not want it
        ctx.registry.check_registered(decision.model_version)
    try:
        with transaction(ctx.engine) as connection:
            decisions.record(connection, decision)
            if by_operator:
                _stop_trial(connection, decision)
            elif (on_trial := deployments.on_trial(connection)) is not None:
                raise ConflictError(
                    f"version {on_trial.model_version} is being tried; decide again when that has ended"
                )
            deployment_id = deployments.begin(
                connection,
                model_version=decision.model_version,
                previous_version=champion,
                decision_id=decision.id,
                bundle_prefix=location.prefix,
                bundle_digest=location.digest,
                strategy=strategy,
                share=0 if strategy == "direct" else ctx.settings.trial_share,
                status="rolling" if strategy == "direct" else "trial",
            )
    except ConstraintError as error:
        if deployments.ONE_OPEN not in str(error.orig):
            raise
        raise ConflictError("another deployment was started although this process held the lock; try again") from error
    if strategy == "direct":
        return conclude(ctx, deployment_id, started)
    log.info("version %s is on trial as a %s of version %s", decision.model_version, strategy, champion)
    with transaction(ctx.engine) as connection:
        record = deployments.on_trial(connection)
    if record is None or record.id != deployment_id:
        raise EvergreenError(f"the trial of deployment {deployment_id} was ended by a process without the lock")
    return as_deployment(record, 0, time.monotonic() - started)


def _stop_trial(connection: Connection, decision: Decision) -> None:
    """End the running trial, if any: an operator's decision overrides it."""
    on_trial = deployments.on_trial(connection)
    if on_trial is not None:
        decisions.record(connection, decision)
        reason = f"stopped by {decision.actor}, who moved to version {decision.model_version}: {decision.reason}"
        deployments.end(connection, on_trial.id, "failed", reason)


def conclude(ctx: Context, deployment_id: int, started: float) -> Deployment:
    """Wait for the replicas, verify, and end the rolling deployment as live or failed; the caller holds the lock."""
    record = deployments.rolling(ctx.engine)
    if record is None or record.id != deployment_id:
        raise EvergreenError(
            f"deployment {deployment_id} is not rolling any more; it was ended by a process without the lock"
        )
    replicas, problem = _await_replicas(ctx, record)
    acknowledged = round(time.monotonic() - started, 3) if replicas else None
    notes = [record.reason, None if replicas else "no replica was running; those that start will load it"]
    if problem is None and replicas:
        problem = verify.find_problem(ctx, record)
    if problem is None:
        try:
            by_operator = decisions.get(ctx.engine, record.decision_id).actor != "gate"
            notes.append(aliases.update(ctx, record, restore=by_operator))
        except NotFoundError as error:
            problem = f"the registry lost it: {error}"
    reason = problem or "; ".join(note for note in notes if note) or None
    with transaction(ctx.engine) as connection:
        # After a failure the desired deployment is the previous live one again.
        deployments.end(connection, deployment_id, "failed" if problem else "live", reason)
    if problem is None:
        log.info("version %s is live on %d replicas", record.model_version, replicas)
    else:
        alerts.alert(ctx.settings, f"version {record.model_version} could not be released and was undone", problem)
    ended = replace(record, status="failed" if problem else "live", reason=reason)
    return as_deployment(ended, replicas, time.monotonic() - started, acknowledged)


def as_deployment(
    record: DeploymentRecord, replicas: int, seconds: float, acknowledged: float | None = None
) -> Deployment:
    return Deployment(
        id=record.id,
        model_version=record.model_version,
        previous_version=record.previous_version,
        strategy=record.strategy,
        status=record.status,
        reason=record.reason,
        replicas=replicas,
        seconds=round(seconds, 3),
        acknowledged=acknowledged,
    )


def _await_replicas(ctx: Context, deployment: DeploymentRecord) -> tuple[int, str | None]:
    """Return how many replicas run it, and the problem if not all live ones do."""
    deadline = time.monotonic() + ctx.settings.release_timeout
    responsive: set[str] = set()
    while True:
        live = deployments.live_replicas(ctx.engine, ctx.settings.heartbeat_seconds)
        # A replica whose last heartbeat is older than the deployment may have died for another reason.
        responsive |= {r.id for r in live if r.heartbeat_at > deployment.created_at}
        if failed := [r for r in live if r.failed_deployment_id == deployment.id]:
            return 0, f"replica {failed[0].id} refused it: {failed[0].error}"
        waiting = [r.id for r in live if r.deployment_id != deployment.id]
        if not waiting:
            problem = (
                f"all {len(responsive)} replicas vanished while they were to load it"
                if responsive and not live
                else None
            )
            return len(live), problem
        if time.monotonic() > deadline:
            return 0, f"{len(waiting)} of {len(live)} replicas did not load it within {ctx.settings.release_timeout} s"
        time.sleep(_POLL)


def count_running(ctx: Context, deployment_id: int) -> int:
    """How many live replicas run a deployment."""
    live = deployments.live_replicas(ctx.engine, ctx.settings.heartbeat_seconds)
    return sum(r.deployment_id == deployment_id for r in live)
