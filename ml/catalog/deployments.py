"""The deployment ledger: what should serve, what did, and what each replica says it runs.

The wish is the newest row that is rolling or live; replicas follow it. At most one row is rolling.
"""

from typing import Any

from sqlalchemy import Connection, Engine, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from ml.catalog.engine import transaction
from ml.catalog.tables import deployments, replicas

CHANNEL = "evergreen_deployments"
ONE_ROLLING = "uq_deployments_rolling"


def wish(connection: Connection) -> dict[str, Any] | None:
    """The deployment that replicas should run."""
    query = (
        select(deployments)
        .where(deployments.c.status.in_(("rolling", "live")))
        .order_by(deployments.c.id.desc())
        .limit(1)
    )
    row = connection.execute(query).mappings().first()
    return dict(row) if row else None


def live(engine: Engine) -> dict[str, Any] | None:
    """The newest deployment that every replica acknowledged."""
    query = select(deployments).where(deployments.c.status == "live").order_by(deployments.c.id.desc()).limit(1)
    with transaction(engine) as connection:
        row = connection.execute(query).mappings().first()
    return dict(row) if row else None


def rolling(engine: Engine) -> dict[str, Any] | None:
    """The deployment that has begun and not ended; at most one."""
    with transaction(engine) as connection:
        row = connection.execute(select(deployments).where(deployments.c.status == "rolling")).mappings().first()
    return dict(row) if row else None


def of_decision(engine: Engine, decision_id: str) -> dict[str, Any] | None:
    """The newest deployment that a decision led to."""
    query = (
        select(deployments).where(deployments.c.decision_id == decision_id).order_by(deployments.c.id.desc()).limit(1)
    )
    with transaction(engine) as connection:
        row = connection.execute(query).mappings().first()
    return dict(row) if row else None


def begin(connection: Connection, **columns: Any) -> int:
    """Insert a rolling deployment and tell the replicas, within the caller's transaction."""
    deployment_id: int = connection.execute(
        insert(deployments).values(**columns).returning(deployments.c.id)
    ).scalar_one()
    notify(connection)
    return deployment_id


def end(connection: Connection, deployment_id: int, status: str, reason: str | None = None) -> None:
    """Give a deployment its fate; a live one supersedes those before it."""
    if status == "live":
        connection.execute(
            update(deployments)
            .where(deployments.c.status == "live", deployments.c.id < deployment_id)
            .values(status="superseded")
        )
    connection.execute(
        update(deployments)
        .where(deployments.c.id == deployment_id)
        .values(status=status, reason=reason, finished_at=func.now())
    )
    notify(connection)


def notify(connection: Connection) -> None:
    """Delivered when the transaction commits; replicas poll as well."""
    connection.execute(text(f"notify {CHANNEL}"))


def live_replicas(engine: Engine, heartbeat_seconds: float) -> list[dict[str, Any]]:
    """Replicas whose last heartbeat is younger than five beats."""
    horizon = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, 5 * heartbeat_seconds)
    with transaction(engine) as connection:
        rows = connection.execute(select(replicas).where(replicas.c.heartbeat_at > horizon).order_by(replicas.c.id))
        return [dict(row) for row in rows.mappings()]


def recent(engine: Engine, limit: int = 20) -> list[dict[str, Any]]:
    """The newest first."""
    with transaction(engine) as connection:
        rows = connection.execute(select(deployments).order_by(deployments.c.id.desc()).limit(limit))
        return [dict(row) for row in rows.mappings()]
