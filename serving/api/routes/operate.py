"""/v1/admin: the history of deployments; promote and rollback for operators' programs."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response

from ml.catalog import deployments
from ml.release import operator
from ml.release.deploy import Deployment
from serving.api.route_classes import requires_role
from serving.api.schemas import Deployed, Ledger, LedgerRow, Promote, Rollback, problems
from serving.dependencies import Injected

_SECONDS: Final = 5.0
DEPLOY_SECONDS: Final = 90.0
"""Longer than a deployment waits for replicas; a deployment that takes longer continues in the background."""

router = APIRouter(
    prefix="/v1/admin", tags=["operate"], route_class=requires_role("operate", seconds=DEPLOY_SECONDS + 10)
)

_PROBLEMS: Final = problems(
    _404="There is no such version, or nothing to go back to.",
    _409="Another deployment came in between.",
    _422="The request does not fit.",
    _503="A part behind the service does not answer; what was begun is finished or undone by the next deployment.",
)


@router.get("/deployments", summary="What served when, on whose word and why", responses=_PROBLEMS)
async def ledger(
    dependencies: Injected,
    limit: Annotated[int, Query(ge=1, le=200)] = 20,
    before: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="Only older ones than this id.")] = None,
) -> Ledger:
    records = await dependencies.database.run_within(_SECONDS, deployments.history, dependencies.engine, limit, before)
    return Ledger(deployments=[LedgerRow.model_validate(record, from_attributes=True) for record in records])


@router.post(
    "/promote",
    summary="Make a version the champion, or try it",
    response_model=Deployed,
    responses={202: {"model": Deployed, "description": "It is being tried."}, **_PROBLEMS},
)
async def promote(body: Promote, dependencies: Injected, request: Request) -> Response:
    """Answers when every replica runs it (200) or it was undone (200, `status` is `failed`); 202 when a trial began."""
    return await _deploy(
        dependencies, operator.promote, body.version, _actor(body.actor, request), body.reason, body.strategy
    )


@router.post("/rollback", summary="The version before, again", response_model=Deployed, responses=_PROBLEMS)
async def rollback(body: Rollback, dependencies: Injected, request: Request) -> Response:
    """While a version is only tried, that is what ends. Otherwise as a promotion of the version before."""
    return await _deploy(dependencies, operator.rollback, _actor(body.actor, request), body.reason, body.to_version)


async def _deploy(dependencies: Injected, action: Any, *arguments: Any) -> Response:
    deployment: Deployment = await dependencies.operators.run_within(
        DEPLOY_SECONDS, action, dependencies.context, *arguments
    )
    deployed = Deployed.model_validate(vars(deployment))
    return Response(
        deployed.model_dump_json(), 202 if deployment.status == "trial" else 200, media_type="application/json"
    )


def _actor(actor: str, request: Request) -> str:
    """The actor with the key that was used, since the name itself is not verified."""
    key: str | None = request.state.caller
    return f"{actor} by REST" + (f" with the key of {key}" if key else "")
