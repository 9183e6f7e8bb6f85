"""GET /v1/accuracy: live accuracy of model versions, by feedback."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Query
from sqlalchemy import Engine

from ml.catalog import accuracy
from ml.catalog.accuracy import AccuracyRecord
from ml.catalog.engine import limit_statements, transaction
from serving.api.route_classes import requires_role
from serving.api.schemas import LiveAccuracy, problems
from serving.dependencies import Injected

_MILLISECONDS: Final = 1500

router = APIRouter(tags=["model"], route_class=requires_role("predict"))

SECONDS: Final = 3.0


@router.get(
    "/v1/accuracy",
    summary="Live accuracy by model version",
    responses=problems(_422="`days` does not fit.", _503="The catalog does not answer."),
)
async def live_accuracy(
    dependencies: Injected,
    days: Annotated[float, Query(gt=0, le=3650, description="Of answers so many days old at most.")] = 30,
) -> list[LiveAccuracy]:
    """Of the newest 20,000 opinions; an answer counts once, by the last one.

    People seldom judge answers drawn at random, so this compares versions better than it stands for itself.
    """
    since = datetime.now(UTC) - timedelta(days=days)
    records = await dependencies.database.run_within(SECONDS, read, dependencies.engine, since)
    return [LiveAccuracy.model_validate(record, from_attributes=True) for record in records]


def read(engine: Engine, since: datetime) -> list[AccuracyRecord]:
    with transaction(engine) as connection:
        limit_statements(connection, _MILLISECONDS)
        return accuracy.by_version(connection, since)
