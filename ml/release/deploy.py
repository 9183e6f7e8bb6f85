"""Makes a model version the one that answers: wish, acknowledgements, live probes; or everything back.

All movers (gate, operator, roll back, a trial that ended well) come through here, one at a time, under
one lock that dies with its holder. The ledger (`deployments`) is the truth; the registry's aliases follow
it, and `reconcile` mends what a crash or an outage left between the two.
"""

import logging
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError as ConstraintError

from ml import alerts
from ml.catalog import decisions, deployments
from ml.catalog.decisions import Decision
from ml.catalog.engine import advisory_lock, transaction
from ml.context import Context
from ml.errors import ConflictError, EvergreenError, NotFoundError, UnavailableError
from ml.models.registry_rest import BundleLocation
from ml.release import aliases, verify
from ml.settings import Strategy

log = logging.getLogger(__name__)

_POLL = 0.05
LOCK = "mover"
ANY = -1


@dataclass(frozen=True)
class Deployment:
    """What came of it.

    `status` is live, failed, trial while its model is only tried, or superseded when asked again later;
    `seconds` from the wish to its fate, `acknowledged` to the last replica that runs it.
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


def move(
    ctx: Context, decision: Decision, expected_champion: int | None = ANY, strategy: Strategy = "direct"
) -> Deployment:
    """Deploy the decision's model version, or begin its trial, and let the aliases follow.

    A decision is deployed once: asked again, after a crash or much later, the fate of that deployment is
    told, so that it cannot undo what was moved since.

    Args:
        decision: is recorded first, if it is not yet.
        expected_champion: the champion this decision was made against; `ANY` for operators, who also end
            a trial that is going on.
        strategy: where nothing is live yet it is direct, for there is nothing to compare with.

    Raises:
        ConflictError: another champion has been made meanwhile, or is just being made or tried.
        NotFoundError: the registry has no such version, or it has no bundle.
        UnavailableError: a server does not answer; `reconcile` finishes or undoes what was begun.
    """
    with advisory_lock(ctx.engine, LOCK):
        reconcile_locked(ctx)
        live, known = deployments.live(ctx.engine), deployments.of_decision(ctx.engine, decision.id)
        champion = live["model_version"] if live else None
        by_operator = expected_champion == ANY
        if known is None and champion == decision.model_version:
            known = live
            if by_operator:
                with transaction(ctx.engine) as connection:
                    _stop_trial(connection, decision)
        if known is not None:
            return as_deployment(known, running(ctx, known["id"]), 0.0)
        if not by_operator and expected_champion not in (champion, now := ctx.registry.alias("champion")):
            raise ConflictError(
                f"the champion changed from {expected_champion} to {now} since decision {decision.id} was made; "
                "train and decide again"
            )
        return _deploy(ctx, decision, champion, strategy if live else "direct", by_operator=by_operator)


def reconcile(ctx: Context) -> None:
    """End what a killed mover left: a rolling deployment, or aliases that disagree with the ledger."""
    with advisory_lock(ctx.engine, LOCK):
        reconcile_locked(ctx)


def reconcile_locked(ctx: Context) -> None:
    """`reconcile`, for callers that hold the lock."""
    rolling = deployments.rolling(ctx.engine)
    if rolling is not None:
        log.warning("deployment %s was left rolling by a mover that died; concluding it", rolling["id"])
        conclude(ctx, rolling["id"], time.monotonic())
    live = deployments.live(ctx.engine)
    if live is not None:
        aliases.mend(ctx, live)


def _deploy(
    ctx: Context, decision: Decision, champion: int | None, strategy: Strategy, *, by_operator: bool
) -> Deployment:
    started = time.monotonic()
    place = _place(ctx, decision.model_version)
    try:
        with transaction(ctx.engine) as connection:
            decisions.record(connection, decision)
            if by_operator:
                _stop_trial(connection, decision)
            elif (tried := deployments.on_trial(connection)) is not None:
                raise ConflictError(
                    f"version {tried['model_version']} is being tried; decide again when that has ended"
                )
            deployment_id = deployments.begin(
                connection,
                model_version=decision.model_version,
                previous_version=champion,
                decision_id=decision.id,
                bundle_prefix=place.prefix,
                bundle_digest=place.digest,
                strategy=strategy,
                share=0 if strategy == "direct" else ctx.settings.trial_share,
                status="rolling" if strategy == "direct" else "trial",
            )
    except ConstraintError as error:
        if deployments.ONE_OPEN not in str(error.orig):
            raise
        raise ConflictError("another deployment has begun, though this mover held the lock; try again") from error
    if strategy == "direct":
        return conclude(ctx, deployment_id, started)
    log.info("version %s is tried as a %s beside version %s", decision.model_version, strategy, champion)
    with transaction(ctx.engine) as connection:
        row = deployments.on_trial(connection)
    if row is None or row["id"] != deployment_id:
        raise EvergreenError(f"the trial of deployment {deployment_id} was ended without the lock")
    return as_deployment(row, 0, time.monotonic() - started)


def _stop_trial(connection: Connection, decision: Decision) -> None:
    """An operator's word ends a trial, if one is going on."""
    tried = deployments.on_trial(connection)
    if tried is not None:
        decisions.record(connection, decision)
        words = f"stopped by {decision.actor}, who moved to version {decision.model_version}: {decision.reason}"
        deployments.end(connection, tried["id"], "failed", words)


def conclude(ctx: Context, deployment_id: int, started: float) -> Deployment:
    """Wait for the replicas, verify, and end the rolling deployment one way or the other; with the lock held."""
    row = deployments.rolling(ctx.engine)
    if row is None or row["id"] != deployment_id:
        raise EvergreenError(f"deployment {deployment_id} is not rolling any more; somebody ended it without the lock")
    replicas, problem = _await_replicas(ctx, row)
    acknowledged = round(time.monotonic() - started, 3) if replicas else None
    notes = [row["reason"], None if replicas else "no replica was running; those that start will load it"]
    if problem is None and replicas:
        problem = verify.problem_of(ctx, row)
    if problem is None:
        try:
            notes.append(aliases.follow(ctx, row))
        except NotFoundError as error:
            problem = f"the registry lost it: {error}"
    reason = problem or "; ".join(note for note in notes if note) or None
    with transaction(ctx.engine) as connection:
        # The wish of a failed one falls back to the newest live deployment by itself: the one before this.
        deployments.end(connection, deployment_id, "failed" if problem else "live", reason)
    if problem is None:
        log.info("version %s is live on %d replicas", row["model_version"], replicas)
    else:
        alerts.alert(ctx.settings, f"version {row['model_version']} could not be released and was undone", problem)
    ended = row | {"status": "failed" if problem else "live", "reason": reason}
    return as_deployment(ended, replicas, time.monotonic() - started, acknowledged)


def as_deployment(row: dict[str, Any], replicas: int, seconds: float, acknowledged: float | None = None) -> Deployment:
    names = ("id", "model_version", "previous_version", "strategy", "status", "reason")
    return Deployment(
        **{n: row[n] for n in names}, replicas=replicas, seconds=round(seconds, 3), acknowledged=acknowledged
    )


def _place(ctx: Context, version: int) -> BundleLocation:
    """Of the registry; while that is away, of the ledger, so that a way back never waits for it."""
    try:
        return ctx.registry.bundle(version)
    except UnavailableError:
        known = deployments.of_version(ctx.engine, version)
        if known is None:
            raise
        return BundleLocation(known["bundle_prefix"], known["bundle_digest"])


def _await_replicas(ctx: Context, deployment: dict[str, Any]) -> tuple[int, str | None]:
    """How many run it, and what went wrong if not all live replicas do."""
    deadline = time.monotonic() + ctx.settings.release_timeout
    seen: set[str] = set()
    while True:
        live = deployments.live_replicas(ctx.engine, ctx.settings.heartbeat_seconds)
        # One whose last beat is older than the wish may have died of something else.
        seen |= {r["id"] for r in live if r["heartbeat_at"] > deployment["created_at"]}
        if refused := [r for r in live if r["failed_deployment_id"] == deployment["id"]]:
            return 0, f"replica {refused[0]['id']} refused it: {refused[0]['error']}"
        waiting = [r["id"] for r in live if r["deployment_id"] != deployment["id"]]
        if not waiting:
            vanished = f"all {len(seen)} replicas vanished while they were to load it" if seen and not live else None
            return len(live), vanished
        if time.monotonic() > deadline:
            return 0, f"{len(waiting)} of {len(live)} replicas did not load it within {ctx.settings.release_timeout} s"
        time.sleep(_POLL)


def running(ctx: Context, deployment_id: int) -> int:
    """How many live replicas run a deployment."""
    live = deployments.live_replicas(ctx.engine, ctx.settings.heartbeat_seconds)
    return sum(r["deployment_id"] == deployment_id for r in live)
