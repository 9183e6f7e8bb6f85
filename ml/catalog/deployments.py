"""Deployments: the desired state, the history of what served and who decided it, and the state of replicas.

The desired deployment is the newest row that is rolling or live; replicas follow it. A row may also be on
trial: its model is a candidate. At most one row is rolling or on trial.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, Engine, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from ml.catalog.engine import transaction
from ml.catalog.tables import decisions, deployments, replicas
from ml.settings import Strategy

CHANNEL = "evergreen_deployments"
ONE_OPEN = "uq_deployments_open"

DeploymentStatus = Literal["trial", "rolling", "live", "failed", "superseded"]


@dataclass(frozen=True, slots=True)
class DeploymentRecord:
    """A row of `deployments`.

    Attributes:
        previous_version: the version that was live when the deployment began; None for the first one.
        share: the candidate's share of the traffic, 0 to 1.
        reason: the outcome in words; None while there is nothing to say.
        findings: JSON that the trial wrote: `answers`, `of`, `words`, `look`, `measures`; empty without a trial.
        trial_at: when the trial started counting.
        finished_at: when it became live or failed.
    """

    id: int
    model_version: int
    previous_version: int | None
    decision_id: str
    bundle_prefix: str
    bundle_digest: str
    strategy: Strategy
    share: float
    status: DeploymentStatus
    reason: str | None
    findings: dict[str, Any]
    created_at: datetime
    trial_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class DeploymentHistoryRecord(DeploymentRecord):
    """A row of `deployments` with its decision.

    Attributes:
        actor, verdict, decision_reason: of the decision.
        served_from: None if it was never live.
        served_until: None if it was never live or still is.
    """

    actor: str
    verdict: str
    decision_reason: str
    served_from: datetime | None
    served_until: datetime | None


@dataclass(frozen=True, slots=True)
class ReplicaRecord:
    """A row of `replicas`: a worker of the service, with what it runs.

    Attributes:
        candidate_deployment_id: the deployment whose candidate it has loaded.
        failed_deployment_id: the newest deployment that it could not load; `error` says why.
        erasure_id: the newest erasure whose images its spool is free of.
    """

    id: str
    host: str
    pid: int
    started_at: datetime
    heartbeat_at: datetime
    deployment_id: int | None
    model_version: int | None
    candidate_deployment_id: int | None
    failed_deployment_id: int | None
    error: str | None
    erasure_id: int | None


def desired(connection: Connection) -> DeploymentRecord | None:
    """The deployment that replicas should run."""
    return _newest(connection, deployments.c.status.in_(("rolling", "live")))


def on_trial(connection: Connection) -> DeploymentRecord | None:
    """The deployment whose model replicas should run as a canary or shadow of the live one."""
    return _newest(connection, deployments.c.status == "trial")


def live(engine: Engine) -> DeploymentRecord | None:
    """The newest deployment that every replica acknowledged."""
    with transaction(engine) as connection:
        return _newest(connection, deployments.c.status == "live")


def rolling(engine: Engine) -> DeploymentRecord | None:
    """The deployment that is being rolled out; at most one."""
    with transaction(engine) as connection:
        return _newest(connection, deployments.c.status == "rolling")


def of_decision(engine: Engine, decision_id: str) -> DeploymentRecord | None:
    """The newest deployment that a decision led to."""
    with transaction(engine) as connection:
        return _newest(connection, deployments.c.decision_id == decision_id)


def of_version(engine: Engine, model_version: int) -> DeploymentRecord | None:
    """The newest deployment of a model version."""
    with transaction(engine) as connection:
        return _newest(connection, deployments.c.model_version == model_version)


def get(engine: Engine, deployment_id: int) -> DeploymentRecord | None:
    with transaction(engine) as connection:
        return _newest(connection, deployments.c.id == deployment_id)


def begin(connection: Connection, **columns: Any) -> int:
    """Insert a deployment, rolling by default, and notify the replicas, within the caller's transaction."""
    deployment_id: int = connection.execute(
        insert(deployments).values(**columns).returning(deployments.c.id)
    ).scalar_one()
    notify(connection)
    return deployment_id


def change(connection: Connection, deployment_id: int, **columns: Any) -> None:
    """Set columns of a deployment and notify the replicas, within the caller's transaction."""
    connection.execute(update(deployments).where(deployments.c.id == deployment_id).values(**columns))
    notify(connection)


def end(connection: Connection, deployment_id: int, status: str, reason: str | None = None) -> None:
    """Set the final status of a deployment; a live one supersedes earlier live ones."""
    if status == "live":
        connection.execute(
            update(deployments)
            .where(deployments.c.status == "live", deployments.c.id < deployment_id)
            .values(status="superseded")
        )
    change(connection, deployment_id, status=status, reason=reason, finished_at=func.now())


def notify(connection: Connection) -> None:
    """Delivered when the transaction commits; replicas poll as well."""
    connection.execute(text(f"notify {CHANNEL}"))


def live_replicas(engine: Engine, heartbeat_seconds: float) -> list[ReplicaRecord]:
    """Replicas whose last heartbeat is more recent than five heartbeat intervals."""
    horizon = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, 5 * heartbeat_seconds)
    with transaction(engine) as connection:
        rows = connection.execute(select(replicas).where(replicas.c.heartbeat_at > horizon).order_by(replicas.c.id))
        return [ReplicaRecord(**row) for row in rows.mappings()]


def refusals(engine: Engine, heartbeat_seconds: float) -> list[str]:
    """Error messages of live replicas that failed to load the live deployment."""
    live_deployment = live(engine)
    live_workers = live_replicas(engine, heartbeat_seconds) if live_deployment else []
    return [
        f"{replica.id}: {replica.error}"
        for replica in live_workers
        if live_deployment and replica.failed_deployment_id == live_deployment.id
    ]


def history(engine: Engine, limit: int = 20, before: int | None = None) -> list[DeploymentHistoryRecord]:
    """Deployments with their decisions, newest first.

    Args:
        before: only deployments with a smaller id.
    """
    served = deployments.c.status.in_(("live", "superseded"))
    served_until = func.lead(deployments.c.finished_at).over(order_by=deployments.c.id)
    spans = (
        select(deployments.c.id, deployments.c.finished_at.label("served_from"), served_until.label("served_until"))
        .where(served)
        .subquery()
    )
    decision_columns = (decisions.c.actor, decisions.c.verdict, decisions.c.reason.label("decision_reason"))
    query = (
        select(deployments, *decision_columns, spans.c.served_from, spans.c.served_until)
        .join(decisions, deployments.c.decision_id == decisions.c.id)
        .outerjoin(spans, spans.c.id == deployments.c.id)
        .order_by(deployments.c.id.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(deployments.c.id < before)
    with transaction(engine) as connection:
        return [DeploymentHistoryRecord(**row) for row in connection.execute(query).mappings()]


def _newest(connection: Connection, condition: Any) -> DeploymentRecord | None:
    query = select(deployments).where(condition).order_by(deployments.c.id.desc()).limit(1)
    row = connection.execute(query).mappings().first()
    return DeploymentRecord(**row) if row else None
