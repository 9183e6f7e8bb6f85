"""Comparisons of the gate on the holdout, one per decision: the state of `ml.gate.budget`; never deleted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.dialects.postgresql import insert

from ml.catalog.engine import transaction
from ml.catalog.tables import approvals, decisions, drops, gate_looks

OUTCOMES: Final = ("reject", "promote", "approved", "declined")
"""Outcomes of a comparison; a decision that waits for an approval counts as declined until it is approved."""


@dataclass(frozen=True)
class HoldoutComparison:
    """A comparison with a champion on the holdout.

    `number` counts from 1; `level` is the significance level of its test; `outcome` is one of `OUTCOMES`.
    """

    number: int
    decision_id: str
    level: float
    outcome: str

    @property
    def event(self) -> bool:
        """Whether the verdict was anything but a plain rejection."""
        return self.outcome != "reject"


def all_comparisons(engine: Engine) -> list[HoldoutComparison]:
    """All comparisons, oldest first."""
    query = (
        select(gate_looks, decisions.c.verdict, approvals.c.approved)
        .join(decisions, decisions.c.id == gate_looks.c.decision_id)
        .outerjoin(approvals, approvals.c.decision_id == gate_looks.c.decision_id)
        .order_by(gate_looks.c.number)
    )
    with transaction(engine) as connection:
        return [
            HoldoutComparison(
                row["number"], row["decision_id"], row["level"], _outcome(row["verdict"], row["approved"])
            )
            for row in connection.execute(query).mappings()
        ]


def record(connection: Connection, comparison: HoldoutComparison) -> None:
    """Insert within the caller's transaction; a duplicate number is an error: two gates ran at once."""
    row = {
        "number": comparison.number,
        "decision_id": comparison.decision_id,
        "level": comparison.level,
        "event": comparison.event,
    }
    connection.execute(insert(gate_looks).values(row))


def before(engine: Engine, drop_ids: Sequence[str]) -> dict[str, int]:
    """Number of comparisons made before each drop was accepted; unknown drops are omitted."""
    comparisons = (
        select(func.count()).select_from(gate_looks).where(gate_looks.c.created_at <= drops.c.finished_at)
    ).scalar_subquery()
    query = select(drops.c.id, comparisons).where(drops.c.id.in_(drop_ids), drops.c.finished_at.is_not(None))
    with transaction(engine) as connection:
        return dict(connection.execute(query).all())


def _outcome(verdict: str, approved: bool | None) -> str:
    if verdict == "needs_person":
        return "approved" if approved else "declined"
    return verdict
