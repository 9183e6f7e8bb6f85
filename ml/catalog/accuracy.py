"""How right the models were, by what people said of their answers."""

from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, and_, func, select

from ml.catalog.tables import feedback, predictions

_MOST: Final = 20_000

JUDGED: Final = and_(predictions.c.id == feedback.c.prediction_id, predictions.c.at == feedback.c.predicted_at)
"""Feedback and the answer that it judges; the time in it leads to one partition."""


def by_version(connection: Connection, since: datetime) -> list[dict[str, Any]]:
    """Live accuracy of each model version on answers given since, the newest version first.

    Of the newest 20,000 opinions; an answer on which people differ counts once, by the last of them.
    Answers that are judged are seldom drawn at random: the figure compares versions better than it
    stands for itself.
    """
    newest = (
        select(feedback).where(feedback.c.predicted_at >= since).order_by(feedback.c.predicted_at.desc()).limit(_MOST)
    ).subquery()
    last = select(newest).distinct(newest.c.prediction_id)
    last = last.order_by(newest.c.prediction_id, newest.c.given_at.desc())
    opinion = last.subquery()
    meant = and_(predictions.c.id == opinion.c.prediction_id, predictions.c.at == opinion.c.predicted_at)
    query = (
        select(
            predictions.c.model_version,
            func.count().label("judged"),
            func.count().filter(opinion.c.label == predictions.c.label).label("right"),
        )
        .select_from(opinion.join(predictions, meant))
        .where(predictions.c.at >= since)
        .group_by(predictions.c.model_version)
        .order_by(predictions.c.model_version.desc())
    )
    rows = connection.execute(query).all()
    return [
        {"model_version": version, "judged": judged, "right": right, "accuracy": round(right / judged, 4)}
        for version, judged, right in rows
    ]
