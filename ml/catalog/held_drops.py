"""Drops that wait for a person: how they come to wait, and what a person decides.

All transitions are guarded by the lock of the drop's row, so of two people who decide at once the first counts. The
row comes first and the markers follow; a decision that was interrupted between them is completed by making it again.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from sqlalchemy import Connection, Engine, func, select, update

from ml.catalog import drops as drop_rows
from ml.catalog import markers
from ml.catalog.drops import DropRecord
from ml.catalog.engine import transaction
from ml.catalog.tables import cycles, drops
from ml.errors import ConflictError, InvalidInputError, NotFoundError
from ml.storage.object_store import ObjectStore

_UNFINISHED: Final = ("claimed", "held")


def record_findings(connection: Connection, drop_id: str, findings: Sequence[Mapping[str, Any]]) -> bool:
    """Store findings of a check within the caller's transaction; return whether the drop waits for a person.

    Findings of earlier checks stay, those of the same kind are replaced. The drop waits if a finding that holds is
    of a kind that nobody has approved for this drop. Findings of a finished drop are not stored.

    Args:
        connection: of the caller's transaction; the drop's row is locked until it ends.
        drop_id: the drop.
        findings: as `ml.intake.findings.Finding.as_json`.
    """
    row = connection.execute(select(drops).where(drops.c.id == drop_id).with_for_update()).mappings().one()
    if row["status"] not in _UNFINISHED:
        return False
    merged = list(({f["kind"]: f for f in row["findings"]} | {f["kind"]: dict(f) for f in findings}).values())
    open_findings = [f for f in merged if f["holds"] and f["kind"] not in row["approved_kinds"]]
    values: dict[str, Any] = {"findings": merged}
    if open_findings:
        values |= {"status": "held", "reason": _explain(row["prefix"], [f["message"] for f in open_findings])}
        connection.execute(update(cycles).where(cycles.c.id == drop_id).values(verdict="held", reason=values["reason"]))
    connection.execute(update(drops).where(drops.c.id == drop_id).values(values))
    return bool(open_findings)


def _explain(prefix: str, messages: Sequence[str]) -> str:
    name = prefix.rstrip("/").rpartition("/")[2]
    return (
        f"held: {'; '.join(messages)}. It waits for a person: look with `evergreen drops show {name}`, "
        f'then `evergreen drops approve {name} --reason "…"` or `evergreen drops reject {name} --reason "…"`'
    )


def waiting(connection: Connection, limit: int = 50) -> list[DropRecord]:
    """Held drops, the longest waiting first."""
    query = select(drops).where(drops.c.status == "held").order_by(drops.c.found_at).limit(limit)
    return [DropRecord(**row) for row in connection.execute(query).mappings()]


def approve(engine: Engine, labels: ObjectStore, drop_id: str, *, actor: str, reason: str) -> DropRecord:
    """Let a held drop go on: what was found does not hold it again. Its marker becomes `_READY`.

    Approving again changes nothing; the first approval stays on record.

    Args:
        engine: the catalog.
        labels: the bucket of the drop.
        drop_id: the drop.
        actor: who approves.
        reason: why; stored.

    Raises:
        NotFoundError: there is no such drop.
        InvalidInputError: `reason` is empty.
        ConflictError: the drop does not wait, was rejected, or is no longer in the bucket.
    """
    _check_reason(reason)
    drop = drop_rows.get(engine, drop_id)
    if drop.status == "held" and not any(labels.exists(drop.prefix + m) for m in (markers.HELD, markers.READY)):
        raise ConflictError(
            f"{drop.prefix} has neither {markers.HELD} nor {markers.READY}: it was deleted while it waited. Reject it, "
            f"or upload it again and put {markers.READY}"
        )
    with transaction(engine) as connection:
        status = drop_rows.locked_status(connection, drop_id)
        drop = drop_rows.read(connection, drop_id)
        if status == "held":
            kinds = [f["kind"] for f in drop.findings if f["holds"]]
            values: dict[str, Any] = {
                "status": "claimed",
                "reason": None,
                "approved_kinds": sorted({*drop.approved_kinds, *kinds}),
            }
            values |= {"approved_by": actor, "approved_at": func.now(), "approval_reason": reason}
            connection.execute(update(drops).where(drops.c.id == drop_id).values(values))
            connection.execute(update(cycles).where(cycles.c.id == drop_id).values(verdict=None, reason=None))
        elif status == "rejected" or drop.approved_at is None:
            raise ConflictError(f"{drop.prefix} ({drop_id}) is {status}, not held: there is nothing to approve")
    _make_ready(labels, drop.prefix)
    return drop_rows.get(engine, drop_id)


def _make_ready(labels: ObjectStore, prefix: str) -> None:
    try:
        hint = markers.hint(labels.get(prefix + markers.HELD))
    except NotFoundError:  # done already, or the drop never lost its marker
        return
    labels.put(prefix + markers.READY, orjson.dumps({"format": hint}) if hint else b"")
    labels.delete([prefix + markers.HELD])


def reject(
    engine: Engine, labels: ObjectStore, store: ObjectStore, drop_id: str, *, actor: str, reason: str
) -> DropRecord:
    """Reject a held drop: nothing of it is taken. Rejecting a rejected drop changes nothing.

    Args:
        engine: the catalog.
        labels: the bucket of the drop.
        store: our bucket, from which its staged images are deleted.
        drop_id: the drop.
        actor: who rejects it.
        reason: why; stored.

    Raises:
        NotFoundError: there is no such drop.
        InvalidInputError: `reason` is empty.
        ConflictError: the drop does not wait.
    """
    _check_reason(reason)
    with transaction(engine) as connection:
        drop_rows.read(connection, drop_id)
        status = drop_rows.locked_status(connection, drop_id)
        if status == "held":
            words = f"rejected by {actor}: {reason}"
            drop_rows.finish(connection, drop_id, "rejected", reason=words)
            drop_rows.stop_cycle(connection, drop_id, "stopped", words)
        elif status != "rejected":
            raise ConflictError(f"drop {drop_id} is {status}, not held: there is nothing to reject")
    drop = drop_rows.get(engine, drop_id)
    if labels.exists(drop.prefix + markers.HELD):
        labels.put(drop.prefix + markers.REJECTED, markers.body(drop), "application/json")
        labels.delete([drop.prefix + markers.HELD])
    if keys := [o.key for o in store.list(markers.staging_prefix(drop_id))]:
        store.delete(keys)
    return drop


def _check_reason(reason: str) -> None:
    if not reason.strip():
        raise InvalidInputError(f"`reason` must say why, for the record; received {reason!r}")


def supersede(engine: Engine, prefix: str, drop_id: str) -> list[str]:
    """Reject the held drops of a folder whose content was changed and is drop `drop_id` now; return their ids."""
    words = f"replaced while it waited: the folder was changed and is drop {drop_id} now"
    query = select(drops.c.id).where(drops.c.prefix == prefix, drops.c.status == "held", drops.c.id != drop_id)
    with transaction(engine) as connection:
        ids = list(connection.execute(query.with_for_update()).scalars())
        for old in ids:
            drop_rows.finish(connection, old, "rejected", reason=words)
            drop_rows.stop_cycle(connection, old, "stopped", words)
    return ids
