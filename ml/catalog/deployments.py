"""Deployments: the desired state, the history of what served and who decided it, and the state of replicas.

The desired deployment is the newest row that is rolling or live; replicas follow it. A row may also be on
trial: its model is a candidate. At most one row is rolling or on trial.
"""

from typing import Any

from sqlalchemy import Connection, Engine, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from ml.catalog.engine import transaction
from ml.catalog.tables import decisions, deployments, replicas

CHANNEL = "evergreen_deployments"
ONE_OPEN = "uq_deployments_open"


def desired(connection: Connection) -> dict[str, Any] | None:
    """The deployment that replicas should run."""
    return _newest(connection, deployments.c.status.in_(("rolling", "live")))


def on_trial(connection: Connection) -> dict[str, Any] | None:
    """The deployment whose model replicas should run as a canary or shadow of the live one."""
    return _newest(connection, deployments.c.status == "trial")


def live(engine: Engine) -> dict[str, Any] | None:
    """The newest deployment that every replica acknowledged."""
    with transaction(engine) as connection:
        return _newest(connection, deployments.c.status == "live")


def rolling(engine: Engine) -> dict[str, Any] | None:
    """The deployment that is being rolled out; at most one."""
    with transaction(engine) as connection:
        return _newest(connection, deployments.c.status == "rolling")


def of_decision(engine: Engine, decision_id: str) -> dict[str, Any] | None:
    """The newest deployment that a decision led to."""
    with transaction(engine) as connection:
        return _newest(connection, deployments.c.decision_id == decision_id)


def of_version(engine: Engine, model_version: int) -> dict[str, Any] | None:
    """The newest deployment of a model version."""
    with transaction(engine) as connection:
        return _newest(connection, deployments.c.model_version == model_version)


def get(engine: Engine, deployment_id: int) -> dict[str, Any] | None:
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


def live_replicas(engine: Engine, heartbeat_seconds: float) -> list[dict[str, Any]]:
    """Replicas whose last heartbeat is more recent than five heartbeat intervals."""
    horizon = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, 5 * heartbeat_seconds)
    with transaction(engine) as connection:
        rows = connection.execute(select(replicas).where(replicas.c.heartbeat_at > horizon).order_by(replicas.c.id))
        return [dict(row) for row in rows.mappings()]


def refusals(engine: Engine, heartbeat_seconds: float) -> list[str]:
    """Error messages of live replicas that failed to load the live deployment."""
    live_deployment = live(engine)
    rows = live_replicas(engine, heartbeat_seconds) if live_deployment else []
    return [
        f"{row['id']}: {row['error']}"
        for row in rows
        if live_deployment and row["failed_deployment_id"] == live_deployment["id"]
    ]


def history(engine: Engine, limit: int = 20, before: int | None = None) -> list[dict[str, Any]]:
    """Deployments with their decisions, newest first.

    Each is a row of the table plus `actor`, `verdict` and `decision_reason` of its decision, and `served_from` and
    `served_until` if it was live; the latter is None while it is.

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
        return [dict(row) for row in connection.execute(query).mappings()]


def _newest(connection: Connection, condition: Any) -> dict[str, Any] | None:
    query = select(deployments).where(condition).order_by(deployments.c.id.desc()).limit(1)
    row = connection.execute(query).mappings().first()
    return dict(row) if row else None
