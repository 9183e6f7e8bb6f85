"""GET /console/drops: drops that wait for a person, with what was found and its images; POST: the decision."""

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field
from sqlalchemy import Engine

from ml.catalog import drops, held_drops
from ml.catalog.drops import DropRecord
from ml.catalog.engine import limit_statements, transaction
from ml.errors import NotFoundError, UnavailableError
from serving.api.route_classes import requires_role
from serving.auth.access import BASIC
from serving.console import overview, pictures
from serving.console.pictures import Place
from serving.console.templates import render
from serving.dependencies import Dependencies, Injected
from serving.errors import ProblemError

router = APIRouter(include_in_schema=False, route_class=requires_role("operate", BASIC))

_SECONDS: Final = 4.0
_DECISION_SECONDS: Final = 15.0

DropId = Annotated[str, Path(max_length=100)]
Position = Annotated[int, Path(ge=0, le=1000)]


class Decision(BaseModel):
    """Why a person decides as they do."""

    reason: str = Field(min_length=1, max_length=2000)


@router.get("/console/drops", response_class=HTMLResponse)
async def page(dependencies: Injected) -> HTMLResponse:
    """The longest waiting first."""
    try:
        waiting = await dependencies.database.run_within(_SECONDS, _read, dependencies.engine)
    except (UnavailableError, ProblemError) as error:
        return HTMLResponse(render("drops.html", dependencies.settings, error=str(error)), 503)
    prefix = dependencies.settings.drops_prefix
    return HTMLResponse(render("drops.html", dependencies.settings, drops=waiting, drops_prefix=prefix))


@router.get("/console/drops/{drop_id}/{finding}/{number}/picture")
async def picture(drop_id: DropId, finding: Position, number: Position, dependencies: Injected) -> Response:
    """A small JPEG of an image of a finding; a placeholder where there is none any more."""
    return await pictures.respond(dependencies, lambda: _place(dependencies.engine, drop_id, finding, number))


@router.post("/console/drops/{drop_id}/{decision}")
async def decide(
    drop_id: DropId,
    decision: Literal["approve", "reject"],
    body: Decision,
    dependencies: Injected,
    request: Request,
) -> dict[str, Any]:
    """Approve or reject a held drop; 409 if somebody decided otherwise meanwhile."""
    key: str | None = request.state.caller
    actor = f"the key of {key}" if key else "a program on this machine, without a key"
    record = await dependencies.operators.run_within(
        _DECISION_SECONDS, _decide, dependencies, drop_id, decision, f"{actor}, in the console", body.reason
    )
    return {"drop_id": record.id, "status": record.status}


def _decide(dependencies: Dependencies, drop_id: str, decision: str, actor: str, reason: str) -> DropRecord:
    engine, context = dependencies.engine, dependencies.context
    if decision == "approve":
        return held_drops.approve(engine, context.labels, drop_id, actor=actor, reason=reason)
    return held_drops.reject(engine, context.labels, context.store, drop_id, actor=actor, reason=reason)


def _read(engine: Engine) -> list[DropRecord]:
    with transaction(engine) as connection:
        limit_statements(connection, overview.STATEMENT_MILLISECONDS)
        return held_drops.waiting(connection)


def _place(engine: Engine, drop_id: str, finding: int, number: int) -> Place | None:
    try:
        place = drops.get(engine, drop_id).findings[finding]["pictures"][number]
    except (NotFoundError, IndexError, KeyError):
        return None
    return place["object"], place["offset"], place["size"]
