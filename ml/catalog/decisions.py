"""Decisions: which model was chosen, by whom, and why. Immutable and never deleted."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from sqlalchemy import Connection, Engine, select
from sqlalchemy.dialects.postgresql import insert

from ml.catalog.engine import transaction
from ml.catalog.tables import approvals, decisions
from ml.errors import NotFoundError


@dataclass(frozen=True)
class Decision:
    """A row of `decisions`.

    `actor` is ``gate`` or ``operator:NAME``, `verdict` promote, reject, needs_person or rollback.
    """

    id: str
    model_version: int
    champion_version: int | None
    dataset_version: str | None
    verdict: str
    reason: str
    actor: str
    statistics: dict[str, Any]
    report_key: str | None = None

    @classmethod
    def from_row(cls, row: Mapping[Any, Any]) -> Self:
        """From a row that has the fields among its columns."""
        return cls(**{name: row[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True, kw_only=True)
class DecisionHistoryRecord(Decision):
    """A decision with its time and its approval; the latter's fields are None without one."""

    created_at: datetime
    approval_approved: bool | None
    approval_actor: str | None
    approval_reason: str | None


def record(connection: Connection, decision: Decision) -> None:
    """Insert within the caller's transaction; an existing decision is not changed."""
    connection.execute(insert(decisions).values(vars(decision)).on_conflict_do_nothing())


def find(engine: Engine, decision_id: str) -> Decision | None:
    with transaction(engine) as connection:
        row = connection.execute(select(decisions).where(decisions.c.id == decision_id)).mappings().first()
    return Decision.from_row(row) if row else None


def get(engine: Engine, decision_id: str) -> Decision:
    """Raises NotFoundError for an unknown id."""
    decision = find(engine, decision_id)
    if decision is None:
        raise NotFoundError(f"no decision has the id `{decision_id}`")
    return decision


def newest_by_model(engine: Engine) -> dict[int, Decision]:
    """The newest decision on each model version."""
    with transaction(engine) as connection:
        rows = connection.execute(select(decisions).order_by(decisions.c.created_at)).mappings().all()
    return {row["model_version"]: Decision.from_row(row) for row in rows}


def best_so_far(engine: Engine, champion: int) -> int:
    """Return the model version of the best champion so far, from the newest decision of the gate.

    This is `champion` itself if there is no decision, or if the newest one is an operator's (a rollback or manual
    promotion): a model that a person took out of service is not a baseline for later ones.
    """
    query = select(decisions.c.actor, decisions.c.statistics["best_so_far"]).order_by(decisions.c.created_at.desc())
    with transaction(engine) as connection:
        for actor, best in connection.execute(query.limit(1000)):
            if actor != "gate":
                return champion
            if best is not None:
                return int(best)
    return champion


def recent(engine: Engine, limit: int = 20) -> list[DecisionHistoryRecord]:
    """The newest decisions first, each with its time and its approval, if any."""
    approval_columns = [approvals.c[name].label(f"approval_{name}") for name in ("approved", "actor", "reason")]
    query = (
        select(decisions, *approval_columns).outerjoin(approvals).order_by(decisions.c.created_at.desc()).limit(limit)
    )
    with transaction(engine) as connection:
        return [DecisionHistoryRecord.from_row(row) for row in connection.execute(query).mappings()]
