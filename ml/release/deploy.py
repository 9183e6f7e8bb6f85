"""Makes a model version the one that answers: wish, acknowledgements, live probes; or everything back.

All movers (gate, operator, roll back) come through `move`, one at a time, under one lock that dies
with its holder. The ledger (`deployments`) is the truth; the registry's aliases follow it, and
`reconcile` mends what a crash left between the two.
"""

import logging
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError as ConstraintError

from ml.catalog import decisions, deployments
from ml.catalog.decisions import Decision
from ml.catalog.engine import advisory_lock, transaction
from ml.context import Context
from ml.errors import ConflictError, EvergreenError, NotFoundError
from ml.release import verify

log = logging.getLogger(__name__)

_POLL = 0.1
ANY = -1


@dataclass(frozen=True)
class Deployment:
    """What came of it.

    `status` is live or failed, or superseded when asked again later; `seconds` from the wish to its fate.
    """

    id: int
    model_version: int
    previous_version: int | None
    status: str
    reason: str | None
    replicas: int
    seconds: float


def move(ctx: Context, decision: Decision, expected_champion: int | None = ANY) -> Deployment:
    """Deploy the decision's model version and move the aliases.

    A decision is deployed once: asked again, after a crash or much later, the fate of that deployment is
    told, so that it cannot undo what was moved since.

    Args:
        decision: is recorded first, if it is not yet.
        expected_champion: the champion this decision was made against; `ANY` for operators.

    Raises:
        ConflictError: another champion has been made meanwhile, or is just being made.
        NotFoundError: the registry has no such version, or it has no bundle.
        UnavailableError: a server does not answer; `reconcile` finishes or undoes what was begun.
    """
    with advisory_lock(ctx.engine, "mover"):
        _reconcile(ctx)
        champion, known = ctx.registry.alias("champion"), deployments.of_decision(ctx.engine, decision.id)
        if known is None and champion == decision.model_version:
            live = deployments.live(ctx.engine)
            known = live if live and live["model_version"] == champion else None
        if known is not None:
            return _as_deployment(known, _running(ctx, known["id"]), 0.0)
        if expected_champion not in (ANY, champion):
            raise ConflictError(
                f"the champion changed from {expected_champion} to {champion} since decision {decision.id} was made; "
                "train and decide again"
            )
        return _deploy(ctx, decision, champion)


def reconcile(ctx: Context) -> None:
    """End what a killed mover left: a rolling deployment, or aliases that disagree with the ledger."""
    with advisory_lock(ctx.engine, "mover"):
        _reconcile(ctx)


def _deploy(ctx: Context, decision: Decision, champion: int | None) -> Deployment:
    started = time.monotonic()
    place = ctx.registry.bundle(decision.model_version)
    try:
        with transaction(ctx.engine) as connection:
            decisions.record(connection, decision)
            deployment_id = deployments.begin(
                connection,
                model_version=decision.model_version,
                previous_version=champion,
                decision_id=decision.id,
                bundle_prefix=place.prefix,
                bundle_digest=place.digest,
            )
    except ConstraintError as error:
        if deployments.ONE_ROLLING not in str(error.orig):
            raise
        raise ConflictError("another deployment has begun, though this mover held the lock; try again") from error
    return _conclude(ctx, deployment_id, started)


def _conclude(ctx: Context, deployment_id: int, started: float) -> Deployment:
    """Wait for the replicas, verify, and end the rolling deployment one way or the other."""
    row = _rolling(ctx.engine, deployment_id)
    replicas, problem = _await_replicas(ctx, row)
    note = None if replicas else "no replica was running; those that start will load it"
    if problem is None and replicas:
        problem = verify.problem_of(ctx, row)
    if problem is None:
        try:
            _set_aliases(ctx, row["model_version"], row["previous_version"])
        except NotFoundError as error:
            problem = f"the registry lost it: {error}"
    if problem is None:
        _end(ctx.engine, deployment_id, "live", note)
        log.info("version %s is live on %d replicas", row["model_version"], replicas)
    else:
        # The wish falls back to the newest live deployment by itself: the one before this.
        _end(ctx.engine, deployment_id, "failed", problem)
        log.error("deployment of version %s failed and was undone: %s", row["model_version"], problem)
    seconds = time.monotonic() - started
    return _as_deployment(
        row | {"status": "failed" if problem else "live", "reason": problem or note}, replicas, seconds
    )


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


def _running(ctx: Context, deployment_id: int) -> int:
    live = deployments.live_replicas(ctx.engine, ctx.settings.heartbeat_seconds)
    return sum(r["deployment_id"] == deployment_id for r in live)


def _reconcile(ctx: Context) -> None:
    rolling = deployments.rolling(ctx.engine)
    if rolling is not None:
        log.warning("deployment %s was left rolling by a mover that died; concluding it", rolling["id"])
        _conclude(ctx, rolling["id"], time.monotonic())
    live = deployments.live(ctx.engine)
    if live is not None and ctx.registry.alias("champion") != live["model_version"]:
        log.warning("the registry disagrees with the ledger; champion is set to %s", live["model_version"])
        try:
            _set_aliases(ctx, live["model_version"], live["previous_version"])
        except NotFoundError as error:
            log.warning("what is live was deleted from the registry, the next move replaces it: %s", error)


def _set_aliases(ctx: Context, champion: int, previous: int | None) -> None:
    if previous is not None and previous != champion:
        try:
            ctx.registry.set_alias("previous", previous)
        except NotFoundError as error:
            log.warning("there will be nothing to roll back to: %s", error)
    ctx.registry.set_alias("champion", champion)
    if ctx.registry.alias("challenger") == champion:
        ctx.registry.set_alias("challenger", None)


def _end(engine: Engine, deployment_id: int, status: str, reason: str | None) -> None:
    with transaction(engine) as connection:
        deployments.end(connection, deployment_id, status, reason)


def _rolling(engine: Engine, deployment_id: int) -> dict[str, Any]:
    row = deployments.rolling(engine)
    if row is None or row["id"] != deployment_id:
        raise EvergreenError(f"deployment {deployment_id} is not rolling any more; somebody ended it without the lock")
    return row


def _as_deployment(row: dict[str, Any], replicas: int, seconds: float) -> Deployment:
    names = ("id", "model_version", "previous_version", "status", "reason")
    return Deployment(**{n: row[n] for n in names}, replicas=replicas, seconds=round(seconds, 3))
