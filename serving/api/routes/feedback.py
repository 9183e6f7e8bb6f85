"""POST /v1/feedback."""

import time
from datetime import UTC, datetime
from typing import Final

import orjson
from fastapi import APIRouter, Request, Response

from ml.catalog import feedback
from ml.catalog.engine import limit_statements, transaction
from ml.catalog.feedback import (
    FeedbackLimits,
    FeedbackRecord,
    FeedbackRefusedError,
    Outcome,
    RefusalCode,
    StoredFeedback,
)
from ml.errors import UnavailableError
from serving.api.route_classes import requires_role
from serving.api.schemas import Feedback, FeedbackStored, problems
from serving.auth.access import IDENTITY, Identity
from serving.dependencies import Dependencies, Injected
from serving.errors import RETRY, ProblemError
from serving.prediction_log.log import timestamp_of

router = APIRouter(tags=["predictions"], route_class=requires_role("feedback"))

SECONDS: Final = 2.0
_STATUS: Final[dict[Outcome, int]] = {"new": 201, "known": 200, "waiting": 202}
_REFUSED: Final[dict[RefusalCode, int]] = {
    "declined_class": 422,
    "erased": 410,
    "expired": 404,
    "foreign_prediction": 404,
    "near_class": 422,
    "revoked": 403,
    "too_many": 429,
}
_CLASSES: Final = "classes"
_KEPT: Final = StoredFeedback("waiting", "unknown")


@router.post(
    "/v1/feedback",
    summary="Say what a prediction should have been",
    response_model=FeedbackStored,
    responses={
        200: {"model": FeedbackStored, "description": "This end user had spoken before; the last word counts."},
        202: {
            "model": FeedbackStored,
            "description": "Kept, and stored by itself later: the catalog is away, or no such prediction is in the "
            "log yet.",
        },
        **problems(
            _404="No such prediction was asked for with this key, or it is past retention.",
            _410="The image was erased.",
            _422="The id, key, label, source or comment does not fit, or the label is written nearly like a class.",
            _503="The catalog is away and the local disk's share is full.",
        ),
    },
    status_code=201,
)
async def give_feedback(body: Feedback, dependencies: Injected, request: Request, response: Response) -> FeedbackStored:
    """By the prediction's id or by the key sent with the image. Idempotent by prediction, caller and source.

    What it counts as depends on the key: a proposal with the role `feedback`, an annotator's vote with `annotate`, a
    decision with `review`. The prediction itself may still be on its way to the log.
    """
    identity: Identity = request.scope[IDENTITY]
    record = _record(body, request.state.caller, identity)
    try:
        stored = await dependencies.database.run_within(SECONDS, _store, dependencies, record)
    except FeedbackRefusedError as error:
        raise _refused(error, dependencies) from None
    except (UnavailableError, ProblemError):  # not available, or so slow that the queue is full
        stored = _keep(record, dependencies)
    response.status_code = _STATUS[stored.outcome]
    return FeedbackStored(
        prediction_id=body.prediction_id,
        client_key=body.client_key,
        label=body.label,
        source=body.source,
        level=identity.level,
        standing=stored.standing,
    )


def _store(dependencies: Dependencies, record: FeedbackRecord) -> StoredFeedback:
    with transaction(dependencies.engine) as connection:
        limit_statements(connection, round(1000 * SECONDS))
        known = feedback.known_classes(connection)
        dependencies.cache[_CLASSES] = (time.monotonic(), dict.fromkeys(known))
        return feedback.store(connection, record, FeedbackLimits.from_settings(dependencies.settings), known)


def _refused(error: FeedbackRefusedError, dependencies: Dependencies) -> ProblemError:
    dependencies.metrics.refused.labels(error.code).inc()
    return ProblemError(_REFUSED[error.code], error.code, str(error))


def _keep(record: FeedbackRecord, dependencies: Dependencies) -> StoredFeedback:
    """Spool the feedback; what depends on the catalog is checked when it is back, with the level the key has now."""
    try:
        feedback.refuse_near(record.label, _classes(dependencies))
    except FeedbackRefusedError as error:
        raise _refused(error, dependencies) from None
    if not dependencies.prediction_log.append_feedback(orjson.dumps(record)):
        raise ProblemError(
            503,
            "unavailable",
            "feedback cannot be stored now: the catalog does not answer and the spool is full",
            RETRY,
        ) from None
    return _KEPT


def _classes(dependencies: Dependencies) -> set[str]:
    """The classes as last seen in the catalog, and those of the live model."""
    live = dependencies.slot.get()
    seen = dependencies.cache.get(_CLASSES, (0.0, {}))[1]
    return {*seen, *(live.model.info.labels if live else ())}


def _record(body: Feedback, caller: str | None, identity: Identity) -> FeedbackRecord:
    return FeedbackRecord(
        prediction_id=body.prediction_id,
        predicted_at=timestamp_of(body.prediction_id) if body.prediction_id else None,
        client_key=body.client_key,
        caller=caller,
        label=body.label,
        source=body.source,
        comment=body.comment,
        given_at=datetime.now(UTC),
        key_id=identity.id,
        level=identity.level,
    )
