"""POST /v1/feedback."""

from typing import Final

from fastapi import APIRouter, Response
from sqlalchemy import Engine, case, literal_column, null
from sqlalchemy.dialects.postgresql import insert

from ml.catalog.engine import transaction
from ml.catalog.tables import feedback
from serving.parts import Served
from serving.schemas import Feedback, FeedbackStored, problems

router = APIRouter(tags=["predictions"])

SECONDS: Final = 5.0


@router.post(
    "/v1/feedback",
    summary="Say what a prediction should have been",
    response_model=FeedbackStored,
    responses={
        200: {"model": FeedbackStored, "description": "This source had spoken before; now it says this."},
        **problems(_422="The id, label, source or comment does not fit.", _503="The catalog does not answer."),
    },
    status_code=201,
)
async def give_feedback(body: Feedback, parts: Served, response: Response) -> FeedbackStored:
    """Idempotent by prediction and source. The prediction itself may still be on its way to the log."""
    new = await parts.database.run_within(SECONDS, store, parts.engine, body)
    response.status_code = 201 if new else 200
    return FeedbackStored(prediction_id=body.prediction_id, label=body.label, source=body.source)


def store(engine: Engine, given: Feedback) -> bool:
    """Insert, or bring up to date what the source said before; True if it is new.

    A changed label is one that no drop has gathered yet.
    """
    gathered = case((feedback.c.label != given.label, null()), else_=feedback.c.drop_prefix)
    statement = insert(feedback).values(
        prediction_id=given.prediction_id, label=given.label, source=given.source, comment=given.comment
    )
    statement = statement.on_conflict_do_update(
        index_elements=["prediction_id", "source"],
        set_={"label": given.label, "comment": given.comment, "drop_prefix": gathered},
    )
    with transaction(engine) as connection:
        # xmax is 0 on a row that this statement inserted.
        return bool(connection.execute(statement.returning(literal_column("xmax = 0"))).scalar_one())
