"""What people said to decisions that need one: the first answer counts, and no answer in time is a no."""

from dataclasses import dataclass

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.dialects.postgresql import insert

from ml.catalog import decisions as ledger
from ml.catalog.engine import transaction
from ml.catalog.tables import approvals, cycles, decisions
from ml.errors import ConflictError, InvalidInputError

TIMEOUT = "timeout"


@dataclass(frozen=True)
class Approval:
    """A row of `approvals`; `actor` is a person's name, with the place where it is not the shell, or `TIMEOUT`."""

    decision_id: str
    approved: bool
    actor: str
    reason: str


def find(engine: Engine, decision_id: str) -> Approval | None:
    with transaction(engine) as connection:
        return _find(connection, decision_id)


def answer(engine: Engine, given: Approval, hours: float) -> Approval:
    """Record an answer, and give it back; the same answer again changes nothing.

    Args:
        hours: how long a decision waits.

    Raises:
        NotFoundError: no such decision.
        ConflictError: the decision needs nobody; or somebody else, or another answer, or the time-out was first.
        InvalidInputError: no name; or a no without a reason.
    """
    if not given.actor.strip():
        raise InvalidInputError("an answer needs a name: it is kept with the decision")
    if not given.approved and not given.reason.strip():
        raise InvalidInputError("a rejection needs a reason: it is kept with the decision")
    decision = ledger.get(engine, given.decision_id)
    if decision.verdict != "needs_person":
        raise ConflictError(f"decision {decision.id} waits for nobody: its verdict is {decision.verdict}")
    expire(engine, hours)
    with transaction(engine) as connection:
        connection.execute(insert(approvals).values(vars(given)).on_conflict_do_nothing())
        kept = _find(connection, given.decision_id)
    if kept is None or (kept.approved, kept.actor) != (given.approved, given.actor):
        raise ConflictError(f"decision {given.decision_id} was answered already: {words(kept) if kept else 'gone'}")
    return kept


def words(of: Approval) -> str:
    """An answer as a sentence's end."""
    if of.actor == TIMEOUT:
        return f"rejected, {of.reason}"
    said = "approved" if of.approved else "rejected"
    return f"{said} by {of.actor}" + (f": {of.reason}" if of.reason else "")


def expire(engine: Engine, hours: float) -> int:
    """Reject what waited for too long; how many."""
    late = decisions.c.created_at + func.make_interval(0, 0, 0, 0, 0, 0, 3600 * hours) < func.now()
    unanswered = ~select(approvals).where(approvals.c.decision_id == decisions.c.id).exists()
    with transaction(engine) as connection:
        ids = connection.execute(
            select(decisions.c.id).where(decisions.c.verdict == "needs_person", late, unanswered)
        ).scalars()
        reason = f"nobody answered within {hours:g} hours"
        rows = [vars(Approval(found, approved=False, actor=TIMEOUT, reason=reason)) for found in ids]
        if rows:
            connection.execute(insert(approvals).on_conflict_do_nothing(), rows)
        return len(rows)


def open_cycles(engine: Engine, decision_id: str | None = None) -> list[tuple[str, str]]:
    """Decision and cycle of each cycle that waits for a person, or of one decision only."""
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
