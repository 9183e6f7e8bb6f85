"""GET /v1/accuracy: how right the models were, by what came back as feedback."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from sqlalchemy import Engine

from ml.catalog import accuracy
from ml.catalog.engine import transaction
from serving.access import needs
from serving.console.overview import hurry
from serving.parts import Served
from serving.schemas import LiveAccuracy, problems

router = APIRouter(tags=["model"], route_class=needs("predict"))

SECONDS: Final = 3.0


@router.get(
    "/v1/accuracy",
    summary="Live accuracy by model version",
    response_model=list[LiveAccuracy],
    responses=problems(_422="`days` does not fit.", _503="The catalog does not answer."),
)
async def live_accuracy(
    parts: Served, days: Annotated[float, Query(gt=0, le=3650, description="Of answers so many days old at most.")] = 30
) -> list[dict[str, Any]]:
    """Of the newest 20,000 opinions; an answer counts once, by the last one.

    People seldom judge answers drawn at random, so this compares versions better than it stands for itself.
    """
    since = datetime.now(UTC) - timedelta(days=days)
    return await parts.database.run_within(SECONDS, read, parts.engine, since)


def read(engine: Engine, since: datetime) -> list[dict[str, Any]]:
    with transaction(engine) as connection:
        hurry(connection)
        return accuracy.by_version(connection, since)
