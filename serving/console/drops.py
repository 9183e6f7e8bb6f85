"""GET /console/drops: drops that wait for a person, with what was found and its images, and drops that are in the data.

POST: the decision on one that waits, or the request to revert or restore one that was accepted.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, assert_never

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field
from sqlalchemy import Engine

from ml.catalog import drops, held_drops, revert_requests
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

PAGE: Final = 20
_SECONDS: Final = 4.0
_DECISION_SECONDS: Final = 15.0

DropId = Annotated[str, Path(max_length=100)]
Before = Annotated[str | None, Query(max_length=100)]
Position = Annotated[int, Path(ge=0, le=1000)]


class Decision(BaseModel):
    """Why a person decides as they do."""

    reason: str = Field(min_length=1, max_length=2000)


@dataclass(frozen=True)
class _Page:
    """Drops that wait, none on later pages; accepted ones; and after which of them the next page begins."""

    waiting: list[DropRecord]
    accepted: list[DropRecord]
    following: str | None


@router.get("/console/drops", response_class=HTMLResponse)
async def page(dependencies: Injected, before: Before = None) -> HTMLResponse:
    """Held drops, and a page of the accepted ones, the newest first."""
    settings = dependencies.settings
    try:
        content = await dependencies.database.run_within(_SECONDS, _read, dependencies.engine, before)
    except (UnavailableError, ProblemError) as error:
        return HTMLResponse(render("drops.html", settings, error=str(error)), 503)
    first = before is None
    return HTMLResponse(render("drops.html", settings, page=content, first=first, drops_prefix=settings.drops_prefix))


@router.get("/console/drops/{drop_id}/{finding}/{number}/picture")
async def picture(drop_id: DropId, finding: Position, number: Position, dependencies: Injected) -> Response:
    """A small JPEG of an image of a finding; a placeholder where there is none any more."""
    return await pictures.respond(dependencies, lambda: _place(dependencies.engine, drop_id, finding, number))


@router.post("/console/drops/{drop_id}/{decision}")
async def decide(
    drop_id: DropId,
    decision: Literal["approve", "reject", "revert", "restore"],
    body: Decision,
    dependencies: Injected,
    request: Request,
) -> dict[str, Any]:
    """Approve or reject a held drop, or have an accepted one reverted or restored; 409 if that is not what it is."""
    key: str | None = request.state.caller
    actor = f"the key of {key}" if key else "a program on this machine, without a key"
    record = await dependencies.operators.run_within(
        _DECISION_SECONDS, _decide, dependencies, drop_id, decision, f"{actor}, in the console", body.reason
    )
    reverted = record.reverted_at is not None
    return {"drop_id": record.id, "status": record.status, "reverted": reverted, "request": record.revert_request}


def _decide(
    dependencies: Dependencies,
    drop_id: str,
    decision: Literal["approve", "reject", "revert", "restore"],
    actor: str,
    reason: str,
) -> DropRecord:
    engine, context = dependencies.engine, dependencies.context
    match decision:
        case "approve":
            return held_drops.approve(engine, context.labels, drop_id, actor=actor, reason=reason)
        case "reject":
            return held_drops.reject(engine, context.labels, context.store, drop_id, actor=actor, reason=reason)
        case "revert" | "restore":
            return revert_requests.request(engine, drop_id, decision, actor=actor, reason=reason)
        case _:
            assert_never(decision)


def _read(engine: Engine, before: str | None) -> _Page:
    with transaction(engine) as connection:
        limit_statements(connection, overview.STATEMENT_MILLISECONDS)
        waiting = [] if before is not None else held_drops.waiting(connection)
        accepted = drops.accepted(connection, PAGE + 1, before)
    following = accepted[PAGE - 1].id if len(accepted) > PAGE else None
    return _Page(waiting, accepted[:PAGE], following)


def _place(engine: Engine, drop_id: str, finding: int, number: int) -> Place | None:
    try:
        place = drops.get(engine, drop_id).findings[finding]["pictures"][number]
    except (NotFoundError, IndexError, KeyError):
        return None
    return place["object"], place["offset"], place["size"]
