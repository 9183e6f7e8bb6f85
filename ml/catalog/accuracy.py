"""Live accuracy of model versions, computed from feedback."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import Connection, Engine, FromClause, func, select, true
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.sql.selectable import LateralFromClause

from ml.catalog.engine import transaction
from ml.catalog.tables import feedback, predictions

_MAX_FEEDBACK: Final = 20_000


@dataclass(frozen=True, slots=True)
class AccuracyRecord:
    """Live accuracy of a model version.

    Attributes:
        judged: predictions with feedback.
        right: those among them whose label the feedback confirms.
        accuracy: their share, rounded to four digits.
    """

    model_version: int
    judged: int
    right: int
    accuracy: float


def prediction_for(opinion: FromClause) -> LateralFromClause:
    """The prediction that each row of `opinion`, feedback or a subset of it, refers to: join it ``on true``.

    An index lookup in the one partition that contains the time. With a plain join, Postgres may choose to
    scan the whole log.
    """
    condition = (predictions.c.id == opinion.c.prediction_id) & (predictions.c.at == opinion.c.predicted_at)
    return select(predictions).where(condition).limit(1).lateral()


def recent_by_version(engine: Engine, days: float = 30) -> dict[int, AccuracyRecord]:
    """`by_version` for the last `days`, keyed by model version."""
    with transaction(engine) as connection:
        records = by_version(connection, datetime.now(UTC) - timedelta(days=days))
    return {record.model_version: record for record in records}


def by_version(connection: Connection, since: datetime) -> list[AccuracyRecord]:
    """Live accuracy of each model version on predictions since then, newest version first.

    Uses the newest 20,000 rows of feedback; the last one per prediction counts. Feedback is rarely a random
    sample of predictions, so the figure is better for comparing versions than as an absolute value.
    """
    newest = (
        select(feedback)
        .where(feedback.c.predicted_at >= since)
        .order_by(feedback.c.predicted_at.desc())
        .limit(_MAX_FEEDBACK)
    ).subquery()
    by_answer = newest.c.prediction_id, newest.c.given_at.desc()
    latest = select(newest).ext(distinct_on(newest.c.prediction_id)).order_by(*by_answer).subquery()
    prediction = prediction_for(latest)
    query = (
        select(
            prediction.c.model_version,
            func.count().label("judged"),
            func.count().filter(latest.c.label == prediction.c.label).label("right"),
        )
        .select_from(latest.join(prediction, true()))
        .group_by(prediction.c.model_version)
        .order_by(prediction.c.model_version.desc())
    )
    rows = connection.execute(query).all()
    return [AccuracyRecord(version, count, right, round(right / count, 4)) for version, count, right in rows]
