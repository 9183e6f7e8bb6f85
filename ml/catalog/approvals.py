"""Approvals of decisions that need a person: the first answer counts; without one in time, it is a rejection."""

from dataclasses import dataclass

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.dialects.postgresql import insert

from ml.catalog import decisions
from ml.catalog.engine import transaction
from ml.catalog.tables import approvals, cycles
from ml.catalog.tables import decisions as decisions_table
from ml.errors import ConflictError, InvalidInputError

TIMEOUT = "timeout"


@dataclass(frozen=True)
class Approval:
    """A row of `approvals`; `actor` is a person's name, with the channel unless it was the shell, or `TIMEOUT`."""

    decision_id: str
    approved: bool
    actor: str
    reason: str


def find(engine: Engine, decision_id: str) -> Approval | None:
    with transaction(engine) as connection:
        return _find(connection, decision_id)


def answer(engine: Engine, approval: Approval, hours: float) -> Approval:
    """Record an answer and return it; idempotent for the same answer.

    Args:
        hours: time after which a decision is rejected.

    Raises:
        NotFoundError: there is no such decision.
        ConflictError: the decision does not need an approval, or was answered before or timed out.
        InvalidInputError: the name is missing, or the reason of a rejection.
    """
    if not approval.actor.strip():
        raise InvalidInputError("an answer needs a name: it is stored with the decision")
    if not approval.approved and not approval.reason.strip():
        raise InvalidInputError("a rejection needs a reason: it is stored with the decision")
    decision = decisions.get(engine, approval.decision_id)
    if decision.verdict != "needs_person":
        raise ConflictError(f"decision {decision.id} does not need an approval: its verdict is {decision.verdict}")
    expire(engine, hours)
    with transaction(engine) as connection:
        connection.execute(insert(approvals).values(vars(approval)).on_conflict_do_nothing())
        stored = _find(connection, approval.decision_id)
    if stored is None or (stored.approved, stored.actor) != (approval.approved, approval.actor):
        raise ConflictError(
            f"decision {approval.decision_id} was answered already: {describe(stored) if stored else 'gone'}"
        )
    return stored


def describe(approval: Approval) -> str:
    """The answer as the end of a sentence."""
    if approval.actor == TIMEOUT:
        return f"rejected, {approval.reason}"
    outcome = "approved" if approval.approved else "rejected"
    return f"{outcome} by {approval.actor}" + (f": {approval.reason}" if approval.reason else "")


def expire(engine: Engine, hours: float) -> int:
    """Reject decisions that waited longer than `hours`; return how many."""
    late = decisions_table.c.created_at + func.make_interval(0, 0, 0, 0, 0, 0, 3600 * hours) < func.now()
    unanswered = ~select(approvals).where(approvals.c.decision_id == decisions_table.c.id).exists()
    with transaction(engine) as connection:
        ids = connection.execute(
            select(decisions_table.c.id).where(decisions_table.c.verdict == "needs_person", late, unanswered)
        ).scalars()
        reason = f"nobody answered within {hours:g} hours"
        rows = [vars(Approval(decision_id, approved=False, actor=TIMEOUT, reason=reason)) for decision_id in ids]
        if rows:
            connection.execute(insert(approvals).on_conflict_do_nothing(), rows)
        return len(rows)


def open_cycles(engine: Engine, decision_id: str | None = None) -> list[tuple[str, str]]:
    """Decision and cycle ids of cycles that wait for an approval, optionally of one decision only."""
    query = select(cycles.c.decision_id, cycles.c.id).where(
        cycles.c.verdict == "needs_person", cycles.c.finished_at.is_(None), cycles.c.decision_id.is_not(None)
    )
    if decision_id is not None:
        query = query.where(cycles.c.decision_id == decision_id)
    with transaction(engine) as connection:
        return [(decision, cycle) for decision, cycle in connection.execute(query.order_by(cycles.c.started_at))]


def _find(connection: Connection, decision_id: str) -> Approval | None:
    row = connection.execute(select(approvals).where(approvals.c.decision_id == decision_id)).mappings().first()
    return Approval(**{name: row[name] for name in Approval.__dataclass_fields__}) if row else None
