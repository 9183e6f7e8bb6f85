"""Reverts and restorations that people ask for where the work cannot be done, as in the service's console.

A request stands in the drop's row until `ml.datasets.revert` has carried it out, in the transaction that changes the
data, or until somebody decides otherwise. So it is carried out exactly once, whatever is killed and however often it
is asked for; the last word counts.
"""

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, Engine, func, select, update

from ml.catalog import drops as drop_rows
from ml.catalog.drops import DropRecord
from ml.catalog.engine import transaction
from ml.catalog.tables import drops
from ml.errors import ConflictError, InvalidInputError

Change = Literal["revert", "restore"]


@dataclass(frozen=True)
class RevertRequest:
    """A request that is not carried out yet."""

    drop_id: str
    change: Change
    actor: str
    reason: str


def request(engine: Engine, drop_id: str, change: Change, *, actor: str, reason: str) -> DropRecord:
    """Ask for a drop to be reverted or restored; return its row.

    Asking for the same again changes nothing. Asking for the state that the drop is in takes an open request back.

    Args:
        engine: the catalog.
        drop_id: an accepted drop.
        change: what to do.
        actor: who asks.
        reason: why; stored.

    Raises:
        NotFoundError: there is no such drop.
        InvalidInputError: `reason` is empty.
        ConflictError: the drop is not accepted.
    """
    if not reason.strip():
        raise InvalidInputError(f"`reason` must say why, for the record; received {reason!r}")
    with transaction(engine) as connection:
        drop_rows.read(connection, drop_id)
        status = drop_rows.locked_status(connection, drop_id)
        if status != "accepted":
            raise ConflictError(f"drop {drop_id} is {status}, not accepted: there is nothing to {change}")
        drop = drop_rows.read(connection, drop_id)
        if (drop.reverted_at is not None) == (change == "revert"):
            take_back(connection, [drop_id])
        elif drop.revert_request != change:
            values = {
                "revert_request": change,
                "revert_requested_by": actor,
                "revert_requested_at": func.now(),
                "revert_request_reason": reason,
            }
            connection.execute(update(drops).where(drops.c.id == drop_id).values(values))
        return drop_rows.read(connection, drop_id)


def find_open(engine: Engine) -> list[RevertRequest]:
    """What is not carried out yet, the oldest first."""
    table = drops.c
    columns = (table.id, table.revert_request, table.revert_requested_by, table.revert_request_reason)
    query = select(*columns).where(table.revert_request.is_not(None)).order_by(table.revert_requested_at, table.id)
    with transaction(engine) as connection:
        return [RevertRequest(*row) for row in connection.execute(query)]


def take_back(connection: Connection, drop_ids: list[str]) -> None:
    """Forget requests for these drops within the caller's transaction."""
    names = ("revert_request", "revert_requested_by", "revert_requested_at", "revert_request_reason")
    connection.execute(update(drops).where(drops.c.id.in_(drop_ids)).values(dict.fromkeys(names)))


def lock_open(connection: Connection, drop_id: str, change: Change) -> None:
    """Lock the drop's row until the transaction ends, if the request is still open.

    Raises:
        ConflictError: it was taken back, or carried out.
    """
    query = select(drops.c.id).where(drops.c.id == drop_id, drops.c.revert_request == change).with_for_update()
    if connection.execute(query).first() is None:
        raise ConflictError(f"the request to {change} drop {drop_id} was taken back, or carried out meanwhile")
