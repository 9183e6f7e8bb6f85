"""What people say predictions should have been: one opinion a prediction and source, the last one counts."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

from sqlalchemy import Connection, case, delete, func, literal_column, null, select, text
from sqlalchemy.dialects.postgresql import insert

from ml.catalog.tables import feedback, feedback_waiting, predictions

Outcome = Literal["new", "known", "waiting"]


@dataclass(frozen=True)
class FeedbackRecord:
    """Feedback on a prediction by its id, or by the key that the client sent with the image.

    Attributes:
        predicted_at: the time in `prediction_id`.
        caller: the API key's name, if there are keys; a client's keys are its own.
    """

    prediction_id: UUID | None
    predicted_at: datetime | None
    client_key: str | None
    caller: str | None
    label: str
    source: str
    comment: str | None
    given_at: datetime


def store(connection: Connection, given: FeedbackRecord) -> Outcome:
    """Insert, or bring up to date what the source said before, unless that is younger.

    By a key, the newest prediction is meant that was asked for with it. Where none has come yet the
    feedback waits for it.
    """
    if given.prediction_id is not None and given.predicted_at is not None:
        return _store(connection, given, given.prediction_id, given.predicted_at)
    found = _by_key(connection, given.client_key or "", given.caller)
    if found:
        return _store(connection, given, *found)
    _wait(connection, given)
    return "waiting"


def settle(connection: Connection, keys: Iterable[tuple[str, str]]) -> int:
    """Hand over feedback that waited under these (client key, caller or empty) and whose prediction has come."""
    settled = 0
    for client_key, caller in keys:
        found = _by_key(connection, client_key, caller or None)
        if not found:
            continue
        within = (feedback_waiting.c.client_key == client_key) & (feedback_waiting.c.caller == caller)
        waited = connection.execute(delete(feedback_waiting).where(within).returning(feedback_waiting)).mappings()
        for row in waited.all():
            given = FeedbackRecord(*found, client_key, caller or None, row.label, row.source, row.comment, row.given_at)
            _store(connection, given, *found)
            settled += 1
    return settled


def settle_arrived(connection: Connection) -> int:
    """The same for the predictions that this transaction has just taken in (`ml.catalog.predictions.store`)."""
    arrived = text(
        "select distinct w.client_key, w.caller from feedback_waiting w join incoming_predictions i "
        "on i.row->>'client_key' = w.client_key and coalesce(i.row->>'caller', '') = w.caller"
    )
    return settle(connection, [(key, caller) for key, caller in connection.execute(arrived)])


def settle_late(connection: Connection, hours: float = 24.0) -> int:
    """The same for what was given and predicted in the same moment, neither having seen the other."""
    young = feedback_waiting.c.given_at > datetime.now(UTC) - timedelta(hours=hours)
    keys = select(feedback_waiting.c.client_key, feedback_waiting.c.caller).where(young).distinct()
    return settle(connection, [(key, caller) for key, caller in connection.execute(keys)])


def _store(connection: Connection, given: FeedbackRecord, prediction_id: UUID, predicted_at: datetime) -> Outcome:
    # A changed label is one that no drop has gathered yet.
    gathered = case((feedback.c.label != given.label, null()), else_=feedback.c.drop_prefix)
    statement = insert(feedback).values(
        prediction_id=prediction_id,
        predicted_at=predicted_at,
        label=given.label,
        source=given.source,
        comment=given.comment,
        caller=given.caller,
        given_at=given.given_at,
    )
    new = statement.excluded
    statement = statement.on_conflict_do_update(
        index_elements=["prediction_id", "source"],
        set_={"label": new.label, "comment": new.comment, "given_at": new.given_at, "drop_prefix": gathered},
        where=feedback.c.given_at <= new.given_at,
    )
    # xmax is 0 on a row that this statement inserted; no row: what is known is younger.
    inserted = connection.execute(statement.returning(literal_column("xmax = 0"))).scalar_one_or_none()
    return "new" if inserted else "known"


def _wait(connection: Connection, given: FeedbackRecord) -> None:
    statement = insert(feedback_waiting).values(
        client_key=given.client_key,
        caller=given.caller or "",
        source=given.source,
        label=given.label,
        comment=given.comment,
        given_at=given.given_at,
    )
    new = statement.excluded
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["client_key", "caller", "source"],
            set_={"label": new.label, "comment": new.comment, "given_at": new.given_at},
            where=feedback_waiting.c.given_at <= new.given_at,
        )
    )


def _by_key(connection: Connection, client_key: str, caller: str | None) -> tuple[UUID, datetime] | None:
    found = connection.execute(
        select(predictions.c.id, predictions.c.at)
        .where(predictions.c.client_key == client_key, func.coalesce(predictions.c.caller, "") == (caller or ""))
        .order_by(predictions.c.at.desc())
        .limit(1)
    ).one_or_none()
    return (found.id, found.at) if found else None
