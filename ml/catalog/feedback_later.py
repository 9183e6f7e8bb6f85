"""Feedback that could not be judged when it came: its prediction was not logged yet, or the review queue was full."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, delete, exists, select, text, update

from ml.catalog import feedback, label_queue
from ml.catalog.feedback import FeedbackLimits, FeedbackRecord, FeedbackRefusedError
from ml.catalog.tables import feedback as table
from ml.catalog.tables import feedback_waiting, predictions


def apply_waiting(connection: Connection, keys: Iterable[tuple[str, str]], limits: FeedbackLimits | None = None) -> int:
    """Store waiting feedback for these (client key, caller or empty) whose predictions are logged by now."""
    applied = 0
    for client_key, caller in keys:
        if not feedback.prediction_by_client_key(connection, client_key, caller or None):
            continue
        condition = (feedback_waiting.c.client_key == client_key) & (feedback_waiting.c.caller == caller)
        waiting = connection.execute(delete(feedback_waiting).where(condition).returning(feedback_waiting)).mappings()
        for row in waiting.all():
            record = FeedbackRecord(
                *(None, None, client_key, caller or None),
                *(row.label, row.source, row.comment, row.given_at, row.key_id, row.level),
            )
            applied += _stored_later(connection, record, limits)
    return applied


def apply_waiting_to_incoming(connection: Connection, limits: FeedbackLimits | None = None) -> int:
    """Apply waiting feedback to the predictions stored in this transaction (`ml.catalog.predictions.store`)."""
    by_client_key = text(
        "select distinct w.client_key, w.caller from feedback_waiting w join incoming_predictions i "
        "on i.row->>'client_key' = w.client_key and coalesce(i.row->>'caller', '') = w.caller"
    )
    applied = apply_waiting(connection, [(key, caller) for key, caller in connection.execute(by_client_key)], limits)
    by_id = text(
        "select f.id from feedback f join incoming_predictions i on (i.row->>'id')::uuid = f.prediction_id "
        "where f.status = 'waiting'"
    )
    return applied + _apply_by_id(connection, list(connection.execute(by_id).scalars()), limits)


def apply_recent_waiting(connection: Connection, hours: float = 24.0, limits: FeedbackLimits | None = None) -> int:
    """Apply waiting feedback that was stored concurrently with its prediction, so that neither saw the other."""
    since = datetime.now(UTC) - timedelta(hours=hours)
    keys = select(feedback_waiting.c.client_key, feedback_waiting.c.caller).distinct()
    waiting = connection.execute(keys.where(feedback_waiting.c.given_at > since))
    applied = apply_waiting(connection, [(key, caller) for key, caller in waiting], limits)
    logged = exists().where(predictions.c.id == table.c.prediction_id, predictions.c.at == table.c.predicted_at)
    by_id = select(table.c.id).where(table.c.status == "waiting", table.c.given_at > since, logged)
    return applied + _apply_by_id(connection, list(connection.execute(by_id).scalars()), limits)


def expire_waiting(connection: Connection, days: float) -> int:
    """Delete feedback whose prediction has not come for so long."""
    horizon = datetime.now(UTC) - timedelta(days=days)
    by_key = connection.execute(delete(feedback_waiting).where(feedback_waiting.c.given_at < horizon))
    unknown = (table.c.status != "stored") & (table.c.given_at < horizon)
    return by_key.rowcount + connection.execute(delete(table).where(unknown)).rowcount


def queue_pending(connection: Connection, limits: FeedbackLimits, most: int = 5000) -> int:
    """Open or update the label tasks of feedback that the review queue has not been told of; returns how many."""
    known, excluded = feedback.known_classes(connection), feedback.excluded_callers(connection)
    query = select(table).where(~table.c.queued, table.c.status == "stored")
    query = query.where(table.c.key_id.not_in(excluded)).order_by(table.c.id).limit(most)
    queued_ids = []
    for row in connection.execute(query).all():
        prediction = feedback.prediction_by_id(connection, row.prediction_id, row.predicted_at)
        # A prediction past retention is not asked about.
        if prediction and not label_queue.refresh(connection, prediction, known, excluded, limits.open_tasks):
            break  # the queue is full: the rest is told when there is room
        queued_ids.append(row.id)
    feedback.mark_queued(connection, queued_ids)
    return len(queued_ids)


def _stored_later(connection: Connection, record: FeedbackRecord, limits: FeedbackLimits | None) -> int:
    """Store feedback whose sender is gone: 0 where it is refused."""
    try:
        feedback.store(connection, record, limits)
    except FeedbackRefusedError:
        return 0
    return 1


def _apply_by_id(connection: Connection, ids: list[int], limits: FeedbackLimits | None) -> int:
    rows = connection.execute(select(table).where(table.c.id.in_(ids))).all()
    applied = 0
    for row in rows:
        record = FeedbackRecord(
            *(row.prediction_id, row.predicted_at, None, row.caller, row.label),
            *(row.source, row.comment, row.given_at, row.key_id, row.level),
        )
        if _stored_later(connection, record, limits):
            applied += 1
        else:
            connection.execute(update(table).where(table.c.id == row.id).values(status="refused"))
    return applied
