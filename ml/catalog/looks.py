"""The gate's use of the holdout, decision by decision: the state of `ml.gate.budget`, kept for ever."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.dialects.postgresql import insert

from ml.catalog.engine import transaction
from ml.catalog.tables import drops, gate_looks


@dataclass(frozen=True)
class Look:
    """A comparison with a champion on the holdout.

    `number` counts from 1; `level` is what it tested at; `event` says that the verdict was not a plain rejection.
    """

    number: int
    decision_id: str
    level: float
    event: bool


def all_looks(engine: Engine) -> list[Look]:
    """The oldest first."""
    with transaction(engine) as connection:
        rows = connection.execute(select(gate_looks).order_by(gate_looks.c.number)).mappings()
        return [Look(**{name: row[name] for name in Look.__dataclass_fields__}) for row in rows]


def record(connection: Connection, look: Look) -> None:
    """Insert within the caller's transaction; a number that is taken is an error: two gates at once."""
    connection.execute(insert(gate_looks).values(vars(look)))


def before(engine: Engine, drop_ids: Sequence[str]) -> dict[str, int]:
    """How many looks there had been when each drop was accepted; drops that are not there are left out."""
    looked = (
        select(func.count()).select_from(gate_looks).where(gate_looks.c.created_at <= drops.c.finished_at)
    ).scalar_subquery()
    query = select(drops.c.id, looked).where(drops.c.id.in_(drop_ids), drops.c.finished_at.is_not(None))
    with transaction(engine) as connection:
        return dict(connection.execute(query).all())
