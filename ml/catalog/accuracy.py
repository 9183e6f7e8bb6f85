"""How right the models were, by what people said of their answers."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Engine, FromClause, func, select, true
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.sql.selectable import LateralFromClause

from ml.catalog.engine import transaction
from ml.catalog.tables import feedback, predictions

_MOST: Final = 20_000


def answer_to(opinion: FromClause) -> LateralFromClause:
    """The answer that each row of `opinion`, feedback or a part of it, judges: join it ``on true``.

    A search by index in the one partition that the time names. Joined plainly, Postgres may prefer to
    read the whole log.
    """
    meant = (predictions.c.id == opinion.c.prediction_id) & (predictions.c.at == opinion.c.predicted_at)
    return select(predictions).where(meant).limit(1).lateral()


def of_last_days(engine: Engine, days: float = 30) -> dict[int, dict[str, Any]]:
    """`by_version` of so many days, by version."""
    with transaction(engine) as connection:
        found = by_version(connection, datetime.now(UTC) - timedelta(days=days))
    return {row["model_version"]: row for row in found}


def by_version(connection: Connection, since: datetime) -> list[dict[str, Any]]:
    """Live accuracy of each model version on answers given since, the newest version first.

    Of the newest 20,000 opinions; an answer on which people differ counts once, by the last of them.
    Answers that are judged are seldom drawn at random: the figure compares versions better than it
    stands for itself.
    """
    newest = (
        select(feedback).where(feedback.c.predicted_at >= since).order_by(feedback.c.predicted_at.desc()).limit(_MOST)
    ).subquery()
    by_answer = newest.c.prediction_id, newest.c.given_at.desc()
    opinion = select(newest).ext(distinct_on(newest.c.prediction_id)).order_by(*by_answer).subquery()
    answer = answer_to(opinion)
    query = (
        select(
            answer.c.model_version,
            func.count().label("judged"),
            func.count().filter(opinion.c.label == answer.c.label).label("right"),
        )
        .select_from(opinion.join(answer, true()))
        .group_by(answer.c.model_version)
        .order_by(answer.c.model_version.desc())
    )
    rows = connection.execute(query).all()
    return [
        {"model_version": version, "judged": judged, "right": right, "accuracy": round(right / judged, 4)}
        for version, judged, right in rows
    ]
