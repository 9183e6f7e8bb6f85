"""Rows of drops: inserted by a claim, finished by acceptance or rejection."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, Engine, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from ml.catalog.engine import transaction
from ml.catalog.tables import cycles, drops, quarantine
from ml.errors import NotFoundError

DropStatus = Literal["claimed", "held", "accepted", "rejected"]


@dataclass(frozen=True, slots=True)
class DropRecord:
    """A row of `drops`.

    Attributes:
        prefix: its folder in the labels bucket, with a final slash.
        format: how its labels are written; None until it is validated.
        reason: why it was rejected, waits for a person, added nothing, or was changed after it was accepted.
        images, accepted, quarantined, duplicates: numbers of images; 0 until it is validated,
            `accepted` until it is finished.
        report_key: key of its Data Docs page.
        dataset_version: the version with its samples; None if it added nothing.
        ready_at: when its marker was set.
        findings: what checks found in it as a whole (`ml.intake.findings.Finding.as_json`).
        approved_kinds: kinds of findings that a person approved.
        approved_by, approved_at, approval_reason: of the last approval.
        reverted_at: when it was taken out of the data; None if it is not reverted.
        reverted_by, revert_reason: of the last revert or restoration.
        revert_request: `revert` or `restore`, if a person asked for it and it is not carried out yet.
        revert_requested_by, revert_requested_at, revert_request_reason: of that request.
    """

    id: str
    prefix: str
    listing_digest: str
    format: str | None
    status: DropStatus
    reason: str | None
    images: int
    accepted: int
    quarantined: int
    duplicates: int
    report_key: str | None
    dataset_version: str | None
    ready_at: datetime | None
    found_at: datetime
    finished_at: datetime | None
    findings: list[dict[str, Any]]
    approved_kinds: list[str]
    approved_by: str | None
    approved_at: datetime | None
    approval_reason: str | None
    reverted_at: datetime | None = None
    reverted_by: str | None = None
    revert_reason: str | None = None
    revert_request: str | None = None
    revert_requested_by: str | None = None
    revert_requested_at: datetime | None = None
    revert_request_reason: str | None = None


@dataclass(frozen=True)
class DropName:
    """How a drop is named for people, and whether it was reverted."""

    name: str
    reverted_at: datetime | None


@dataclass(frozen=True)
class QuarantineEntry:
    """An image to put in quarantine.

    Attributes:
        key: its file in the drop.
        object_key: of its copy in our bucket; None if there are no bytes.
    """

    key: str
    label: str | None
    sha256: str | None
    reasons: list[str]
    object_key: str | None


def begin(engine: Engine, drop_id: str, prefix: str, listing_digest: str, ready_at: datetime) -> str:
    """Insert the drop unless it exists; return its status."""
    row = {
        "id": drop_id,
        "prefix": prefix,
        "listing_digest": listing_digest,
        "status": "claimed",
        "ready_at": ready_at,
    }
    with transaction(engine) as connection:
        connection.execute(insert(drops).values(row).on_conflict_do_nothing())
        status: str = connection.execute(select(drops.c.status).where(drops.c.id == drop_id)).scalar_one()
    return status


def get(engine: Engine, drop_id: str) -> DropRecord:
    """Raises NotFoundError for an unknown id."""
    with transaction(engine) as connection:
        return read(connection, drop_id)


def read(connection: Connection, drop_id: str) -> DropRecord:
    """As `get`, within the caller's transaction."""
    row = connection.execute(select(drops).where(drops.c.id == drop_id)).mappings().first()
    if row is None:
        raise NotFoundError(f"no drop has the id `{drop_id}`; `evergreen drops` lists them")
    return DropRecord(**row)


def named(engine: Engine, name: str, drops_prefix: str) -> DropRecord:
    """The drop with this id, or the newest of this folder, which may be given without `drops_prefix`.

    Raises:
        NotFoundError: there is none.
    """
    folder = name.rstrip("/") + "/"
    prefix = folder if folder.startswith(drops_prefix) else drops_prefix + folder
    query = select(drops).where((drops.c.id == name) | (drops.c.prefix == prefix))
    with transaction(engine) as connection:
        row = connection.execute(query.order_by(drops.c.found_at.desc()).limit(1)).mappings().first()
    if row is None:
        raise NotFoundError(f"no drop has the id or folder `{name}`; `evergreen drops` lists them")
    return DropRecord(**row)


def newest_of(engine: Engine, prefix: str) -> DropRecord | None:
    """The drop most recently found at this prefix."""
    query = select(drops).where(drops.c.prefix == prefix).order_by(drops.c.found_at.desc()).limit(1)
    with transaction(engine) as connection:
        row = connection.execute(query).mappings().first()
    return DropRecord(**row) if row else None


def names(connection: Connection, ids: Sequence[str]) -> dict[str, DropName]:
    """The folder's name and the revert of each of these drops; unknown ones are omitted."""
    query = select(drops.c.id, drops.c.prefix, drops.c.reverted_at).where(drops.c.id.in_(ids))
    return {
        drop_id: DropName(prefix.rstrip("/").rpartition("/")[2], reverted_at)
        for drop_id, prefix, reverted_at in connection.execute(query)
    }


def reverted(connection: Connection) -> set[str]:
    """Ids of all reverted drops; they are few."""
    return set(connection.execute(select(drops.c.id).where(drops.c.reverted_at.is_not(None))).scalars())


def unfinished(engine: Engine) -> list[str]:
    """Drops that are claimed and neither finished nor waiting for a person, oldest first."""
    with transaction(engine) as connection:
        ids = connection.execute(select(drops.c.id).where(drops.c.status == "claimed").order_by(drops.c.found_at))
        return list(ids.scalars())


def recent(engine: Engine, limit: int = 50) -> list[DropRecord]:
    """The newest drops first."""
    with transaction(engine) as connection:
        rows = connection.execute(select(drops).order_by(drops.c.found_at.desc()).limit(limit))
        return [DropRecord(**row) for row in rows.mappings()]


def accepted(connection: Connection, limit: int, before: str | None = None) -> list[DropRecord]:
    """Accepted drops, reverted ones too, the newest first.

    Args:
        before: id of a drop; only older ones are returned. None for the newest; an unknown id has no older ones.
    """
    query = select(drops).where(drops.c.status == "accepted")
    if before is not None:
        found_at = select(drops.c.found_at).where(drops.c.id == before).scalar_subquery()
        query = query.where(tuple_(drops.c.found_at, drops.c.id) < tuple_(found_at, before))
    query = query.order_by(drops.c.found_at.desc(), drops.c.id.desc()).limit(limit)
    return [DropRecord(**row) for row in connection.execute(query).mappings()]


def locked_status(connection: Connection, drop_id: str) -> str:
    """Lock the drop's row until the transaction ends; return its status."""
    status: str = connection.execute(select(drops.c.status).where(drops.c.id == drop_id).with_for_update()).scalar_one()
    return status


def describe(engine: Engine, drop_id: str, **columns: Any) -> None:
    """Set what validation knows of an unfinished drop."""
    with transaction(engine) as connection:
        connection.execute(update(drops).where(drops.c.id == drop_id, drops.c.finished_at.is_(None)).values(**columns))


def finish(connection: Connection, drop_id: str, status: str, **columns: Any) -> None:
    """Set the final status of a drop within the caller's transaction."""
    connection.execute(
        update(drops).where(drops.c.id == drop_id).values(status=status, finished_at=func.now(), **columns)
    )


def stop_cycle(connection: Connection, cycle_id: str, verdict: str, reason: str) -> None:
    """Finish a cycle that trains no model, within the caller's transaction."""
    connection.execute(
        update(cycles).where(cycles.c.id == cycle_id).values(verdict=verdict, reason=reason, finished_at=func.now())
    )


def put_in_quarantine(connection: Connection, drop_id: str, entries: Sequence[QuarantineEntry]) -> None:
    """Insert quarantine rows; existing ones are not changed."""
    if entries:
        values = [{"drop_id": drop_id, **vars(entry)} for entry in entries]
        connection.execute(insert(quarantine).on_conflict_do_nothing(), values)
