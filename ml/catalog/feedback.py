"""Feedback on predictions: one row per prediction and source; the latest replaces earlier ones."""

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
    """Feedback on a prediction, identified by its id or by the key that the client sent with the image.

    Attributes:
        predicted_at: the timestamp in `prediction_id`.
        caller: name of the API key, if keys are used; client keys are unique per caller.
    """

    prediction_id: UUID | None
    predicted_at: datetime | None
    client_key: str | None
    caller: str | None
    label: str
    source: str
    comment: str | None
    given_at: datetime


def store(connection: Connection, record: FeedbackRecord) -> Outcome:
    """Insert feedback, or update that of the same source unless the stored one is newer.

    A client key refers to the newest prediction with that key. If it has not been logged yet, the feedback
    is stored in `feedback_waiting`.
    """
    if record.prediction_id is not None and record.predicted_at is not None:
        return _store(connection, record, record.prediction_id, record.predicted_at)
    prediction = _by_key(connection, record.client_key or "", record.caller)
    if prediction:
        return _store(connection, record, *prediction)
    _store_waiting(connection, record)
    return "waiting"


def apply_waiting(connection: Connection, keys: Iterable[tuple[str, str]]) -> int:
    """Store waiting feedback for these (client key, caller or empty) whose predictions are logged by now."""
    applied = 0
    for client_key, caller in keys:
        prediction = _by_key(connection, client_key, caller or None)
        if not prediction:
            continue
        condition = (feedback_waiting.c.client_key == client_key) & (feedback_waiting.c.caller == caller)
        waiting = connection.execute(delete(feedback_waiting).where(condition).returning(feedback_waiting)).mappings()
        for row in waiting.all():
            record = FeedbackRecord(
                *prediction, client_key, caller or None, row.label, row.source, row.comment, row.given_at
            )
            _store(connection, record, *prediction)
            applied += 1
    return applied


def apply_waiting_to_incoming(connection: Connection) -> int:
    """Apply waiting feedback to the predictions stored in this transaction (`ml.catalog.predictions.store`)."""
    query = text(
        "select distinct w.client_key, w.caller from feedback_waiting w join incoming_predictions i "
        "on i.row->>'client_key' = w.client_key and coalesce(i.row->>'caller', '') = w.caller"
    )
    return apply_waiting(connection, [(key, caller) for key, caller in connection.execute(query)])


def apply_recent_waiting(connection: Connection, hours: float = 24.0) -> int:
    """Apply waiting feedback that was stored concurrently with its prediction, so that neither saw the other."""
    recent = feedback_waiting.c.given_at > datetime.now(UTC) - timedelta(hours=hours)
    keys = select(feedback_waiting.c.client_key, feedback_waiting.c.caller).where(recent).distinct()
    return apply_waiting(connection, [(key, caller) for key, caller in connection.execute(keys)])


def _store(connection: Connection, record: FeedbackRecord, prediction_id: UUID, predicted_at: datetime) -> Outcome:
    # A changed label has not been part of any drop yet.
    drop_prefix = case((feedback.c.label != record.label, null()), else_=feedback.c.drop_prefix)
    statement = insert(feedback).values(
        prediction_id=prediction_id,
        predicted_at=predicted_at,
        label=record.label,
        source=record.source,
        comment=record.comment,
        caller=record.caller,
        given_at=record.given_at,
    )
    new = statement.excluded
    statement = statement.on_conflict_do_update(
        index_elements=["prediction_id", "source"],
        set_={"label": new.label, "comment": new.comment, "given_at": new.given_at, "drop_prefix": drop_prefix},
        where=feedback.c.given_at <= new.given_at,
    )
    # xmax is 0 for an inserted row; no row is returned if the stored feedback is newer.
    inserted = connection.execute(statement.returning(literal_column("xmax = 0"))).scalar_one_or_none()
    return "new" if inserted else "known"


def _store_waiting(connection: Connection, record: FeedbackRecord) -> None:
    statement = insert(feedback_waiting).values(
        client_key=record.client_key,
        caller=record.caller or "",
        source=record.source,
        label=record.label,
        comment=record.comment,
        given_at=record.given_at,
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
    row = connection.execute(
        select(predictions.c.id, predictions.c.at)
        .where(predictions.c.client_key == client_key, func.coalesce(predictions.c.caller, "") == (caller or ""))
        .order_by(predictions.c.at.desc())
        .limit(1)
    ).one_or_none()
    return (row.id, row.at) if row else None
