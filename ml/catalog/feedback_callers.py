"""Callers as a whole: how their feedback fared with reviewers, and whether it counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from sqlalchemy import Connection, Engine, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from ml.catalog import api_keys, feedback, label_queue
from ml.catalog.engine import transaction
from ml.catalog.feedback import LOCAL, OPERATOR, FeedbackLimits
from ml.catalog.label_queue import REASON
from ml.catalog.tables import feedback as feedback_table
from ml.catalog.tables import feedback_callers, label_tasks

Status = Literal["counts", "paused", "revoked"]
MONITOR: Final = "monitor"
"""The actor of a pause that nobody asked for."""
# Of each caller, the images on which a reviewer spoke after it, and those of them where the reviewer said otherwise.
# Only what was said after a caller was looked at counts anew.
_REVIEWED: Final = text("""
with reviews as (
    select distinct on (image_sha256) image_sha256, label, given_at, key_id from feedback
    where level = 'review' and status = 'stored' and revoked_at is null and image_sha256 is not null
    order by image_sha256, given_at desc
)
select f.key_id, count(distinct f.image_sha256) as reviewed,
       count(distinct f.image_sha256) filter (where f.label <> r.label) as declined
from reviews r join feedback f using (image_sha256)
left join feedback_callers c on c.key_id = f.key_id and c.status = 'resumed'
where f.level <> 'review' and f.status = 'stored' and f.revoked_at is null and f.key_id <> r.key_id
  and f.given_at <= r.given_at and f.key_id <> '' and (c.changed_at is null or r.given_at > c.changed_at)
group by f.key_id
""")


@dataclass(frozen=True)
class CallerRecord:
    """A caller's feedback.

    Attributes:
        persons: end users that the caller named.
        reviewed: images on which a reviewer spoke after the caller.
        declined: those of them where the reviewer said otherwise.
        reason: why it is paused or revoked, or was resumed.
    """

    key_id: str
    name: str
    opinions: int
    persons: int
    reviewed: int
    declined: int
    status: Status
    reason: str | None
    last_at: datetime


@dataclass(frozen=True)
class Review:
    """How much of a caller's feedback reviewers turned down, in images."""

    key_id: str
    reviewed: int
    declined: int


def resolve(connection: Connection, key: str) -> str:
    """The identity of a caller by name or id; `local` and `operator` are those without a key.

    Raises:
        NotFoundError: no key has it.
    """
    return key if key in (LOCAL, OPERATOR) else api_keys.find_identity(connection, key)


def reviews(connection: Connection) -> list[Review]:
    """The callers on whose feedback reviewers spoke."""
    return [Review(**row) for row in connection.execute(_REVIEWED).mappings()]


def list_callers(engine: Engine, key: str | None = None) -> list[CallerRecord]:
    """Callers with feedback, the newest first; with `key` only that one.

    Raises:
        NotFoundError: no key has this name or id.
    """
    table = feedback_table.c
    query = select(
        table.key_id,
        func.count().label("opinions"),
        func.count(table.source.distinct()).label("persons"),
        func.max(table.given_at).label("last_at"),
    ).group_by(table.key_id)
    with transaction(engine) as connection:
        if key is not None:
            query = query.where(table.key_id == resolve(connection, key))
        names, reviewed = api_keys.names(connection), {r.key_id: r for r in reviews(connection)}
        callers = {row.key_id: row for row in connection.execute(select(feedback_callers))}
        rows = connection.execute(query.order_by(func.max(table.given_at).desc())).all()
    return [
        CallerRecord(
            key_id=row.key_id,
            name=names.get(row.key_id, row.key_id or "unknown"),
            opinions=row.opinions,
            persons=row.persons,
            reviewed=reviewed[row.key_id].reviewed if row.key_id in reviewed else 0,
            declined=reviewed[row.key_id].declined if row.key_id in reviewed else 0,
            status="counts" if row.key_id not in callers else _status(callers[row.key_id].status),
            reason=callers[row.key_id].reason if row.key_id in callers else None,
            last_at=row.last_at,
        )
        for row in rows
    ]


def pause_disagreeing(engine: Engine, share: float, least: int, limits: FeedbackLimits) -> list[str]:
    """Pause callers too much of whose feedback reviewers turned down; what to tell people of each new one.

    Args:
        share: of the images on which a reviewer spoke, above which a caller is paused.
        least: the fewest such images.
    """
    messages = []
    with transaction(engine) as connection:
        excluded, names = feedback.excluded_callers(connection), api_keys.names(connection)
        for review in reviews(connection):
            if review.key_id in excluded or review.reviewed < least or review.declined <= share * review.reviewed:
                continue
            reason = f"reviewers turned down {review.declined} of {review.reviewed} of its opinions"
            set_status(connection, review.key_id, "paused", MONITOR, reason)
            refresh_tasks(connection, review.key_id, limits)
            name = names.get(review.key_id, review.key_id)
            messages.append(
                f"{name}: {reason}; it is not collected until `evergreen feedback resume --key {review.key_id}` or "
                f"`evergreen feedback revoke --key {review.key_id}`"
            )
    return messages


def set_status(connection: Connection, key_id: str, status: str, actor: str, reason: str) -> None:
    """Record that a caller is `paused`, `revoked` or `resumed`; repeated, the first reason stays."""
    statement = insert(feedback_callers).values(key_id=key_id, status=status, actor=actor, reason=reason)
    new = statement.excluded
    changes = {"status": new.status, "actor": new.actor, "reason": new.reason, "changed_at": func.now()}
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["key_id"],
            set_=changes | {"neutralised_at": None},
            where=feedback_callers.c.status != new.status,
        )
    )


def mark_revoked(connection: Connection, key_id: str) -> int:
    """Mark all feedback of a caller as taken out; returns how many rows were not before."""
    rows = update(feedback_table).where(feedback_table.c.key_id == key_id, feedback_table.c.revoked_at.is_(None))
    return connection.execute(rows.values(revoked_at=func.now())).rowcount


def refresh_tasks(connection: Connection, key_id: str, limits: FeedbackLimits) -> None:
    """Make the open tasks of images that a caller spoke of agree with who counts now."""
    spoken = select(feedback_table.c.image_sha256).where(feedback_table.c.key_id == key_id)
    is_open = (label_tasks.c.reason == REASON) & (label_tasks.c.status == "open")
    of_caller = is_open & label_tasks.c.sha256.in_(spoken)
    known, excluded = feedback.known_classes(connection), feedback.excluded_callers(connection)
    for task in connection.execute(select(label_tasks).where(of_caller)).mappings().all():
        label_queue.refresh(connection, label_queue.prediction_of(task), known, excluded, limits.open_tasks)


def ask_again(connection: Connection, key_id: str) -> None:
    """Have the review queue told of a caller's feedback again."""
    rows = feedback_table.c.key_id == key_id
    connection.execute(update(feedback_table).where(rows).values(queued=False))


def revoked_callers(connection: Connection) -> Sequence[str]:
    """Identities of revoked callers whose annotations may still be in the data."""
    query = select(feedback_callers.c.key_id).where(
        feedback_callers.c.status == "revoked", feedback_callers.c.neutralised_at.is_(None)
    )
    return list(connection.execute(query).scalars())


def _status(stored: str) -> Status:
    return "paused" if stored == "paused" else "revoked" if stored == "revoked" else "counts"
