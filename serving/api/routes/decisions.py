"""POST /v1/decisions/{id}/approval: a person approves or rejects a decision."""

from typing import Annotated, Final

from fastapi import APIRouter, Path, Request

from ml.catalog import approvals
from ml.catalog.approvals import Approval
from serving.api.route_classes import requires_role
from serving.api.schemas import DecisionAnswer, DecisionAnswered, problems
from serving.dependencies import Injected

router = APIRouter(tags=["decisions"], route_class=requires_role("operate"))

_SECONDS: Final = 5.0

Id = Annotated[str, Path(pattern=r"^[0-9a-f]{1,64}$")]


@router.post(
    "/v1/decisions/{decision_id}/approval",
    summary="Say yes or no to a decision that needs a person",
    response_model=DecisionAnswered,
    responses=problems(
        _404="There is no such decision.",
        _409="It needs nobody, or was answered already: the first answer counts.",
        _422="The answer does not fit; a no needs a reason.",
        _503="The catalog does not answer.",
    ),
)
async def answer(decision_id: Id, body: DecisionAnswer, dependencies: Injected, request: Request) -> DecisionAnswered:
    """Recorded at once; Airflow releases what was approved, or ends the cycle, within a minute."""
    caller: str | None = request.state.caller
    suffix = f" with the key of {caller}" if caller else ""
    approval = Approval(decision_id, body.approved, f"{body.actor} by REST{suffix}", body.reason)
    hours = dependencies.settings.gate_review_hours
    stored = await dependencies.database.run_within(_SECONDS, approvals.answer, dependencies.engine, approval, hours)
    return DecisionAnswered(**vars(stored))
