"""POST /v1/feedback."""

from datetime import UTC, datetime
from typing import Final

import orjson
from fastapi import APIRouter, Request, Response
from sqlalchemy import Engine

from ml.catalog import feedback
from ml.catalog.engine import transaction
from ml.catalog.feedback import FeedbackRecord, Outcome
from ml.errors import UnavailableError
from serving.api.route_classes import requires_role
from serving.api.schemas import Feedback, FeedbackStored, problems
from serving.dependencies import Injected
from serving.errors import RETRY, ProblemError
from serving.prediction_log.log import timestamp_of

router = APIRouter(tags=["predictions"], route_class=requires_role("feedback"))

SECONDS: Final = 2.0
_STATUS: Final[dict[Outcome, int]] = {"new": 201, "known": 200, "waiting": 202}


@router.post(
    "/v1/feedback",
    summary="Say what a prediction should have been",
    response_model=FeedbackStored,
    responses={
        200: {"model": FeedbackStored, "description": "This source had spoken before; its last word counts."},
        202: {
            "model": FeedbackStored,
            "description": "Kept, and stored by itself later: the catalog is away, or no prediction with this key is "
            "in the log yet.",
        },
        **problems(
            _422="The id, key, label, source or comment does not fit.",
            _503="The catalog is away and the local disk's share is full.",
        ),
    },
    status_code=201,
)
async def give_feedback(body: Feedback, dependencies: Injected, request: Request, response: Response) -> FeedbackStored:
    """By the prediction's id or by the key sent with the image. Idempotent by prediction and source.

    The prediction itself may still be on its way to the log.
    """
    record = _record(body, request.state.caller)
    try:
        outcome = await dependencies.database.run_within(SECONDS, store, dependencies.engine, record)
    except (UnavailableError, ProblemError):  # not available, or so slow that the queue is full
        outcome = "waiting"
        if not dependencies.prediction_log.append_feedback(orjson.dumps(record)):
            raise ProblemError(
                503,
                "unavailable",
                "feedback cannot be stored now: the catalog does not answer and the spool is full",
                RETRY,
            ) from None
    response.status_code = _STATUS[outcome]
    return FeedbackStored(
        prediction_id=body.prediction_id, client_key=body.client_key, label=body.label, source=body.source
    )


def store(engine: Engine, record: FeedbackRecord) -> Outcome:
    with transaction(engine) as connection:
        return feedback.store(connection, record)


def _record(body: Feedback, caller: str | None) -> FeedbackRecord:
    return FeedbackRecord(
        prediction_id=body.prediction_id,
        predicted_at=timestamp_of(body.prediction_id) if body.prediction_id else None,
        client_key=body.client_key,
        caller=caller,
        label=body.label,
        source=body.source,
        comment=body.comment,
        given_at=datetime.now(UTC),
    )
