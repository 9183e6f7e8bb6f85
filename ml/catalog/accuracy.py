"""Live accuracy of model versions, computed from feedback."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Engine, FromClause, Select, Subquery, case, func, select, true
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.sql.selectable import LateralFromClause

from ml.catalog.engine import transaction
from ml.catalog.tables import feedback, feedback_callers, predictions

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


def counting() -> Select[Any]:
    """Feedback that says something: its prediction is known, and its caller is neither paused nor revoked."""
    excluded = select(feedback_callers.c.key_id).where(feedback_callers.c.status.in_(("paused", "revoked")))
    return select(feedback).where(
        feedback.c.status == "stored", feedback.c.revoked_at.is_(None), feedback.c.key_id.not_in(excluded)
    )


def verdicts(opinions: Select[Any]) -> Subquery:
    """One row of feedback per prediction, however many callers speak of it: of the highest level, the newest."""
    rows = opinions.subquery()
    rank = case({"review": 2, "annotate": 1}, value=rows.c.level, else_=0)
    order = rows.c.prediction_id, rank.desc(), rows.c.given_at.desc()
    return select(rows).ext(distinct_on(rows.c.prediction_id)).order_by(*order).subquery()


def recent_by_version(engine: Engine, days: float = 30) -> dict[int, AccuracyRecord]:
    """`by_version` for the last `days`, keyed by model version."""
    with transaction(engine) as connection:
        records = by_version(connection, datetime.now(UTC) - timedelta(days=days))
    return {record.model_version: record for record in records}


def by_version(connection: Connection, since: datetime) -> list[AccuracyRecord]:
    """Live accuracy of each model version on predictions since then, newest version first.

    Uses the newest 20,000 rows of feedback; one per prediction counts, see `verdicts`. Feedback is rarely a random
    sample of predictions, so the figure is better for comparing versions than as an absolute value.
    """
    newest = counting().where(feedback.c.predicted_at >= since)
    latest = verdicts(newest.order_by(feedback.c.predicted_at.desc()).limit(_MAX_FEEDBACK))
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
