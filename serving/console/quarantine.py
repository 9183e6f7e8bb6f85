"""GET /console/quarantine: quarantined images and the reasons, with thumbnails that are safe to show."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import HTMLResponse
from sqlalchemy import Engine, func, select

from ml.catalog.engine import limit_statements, transaction
from ml.catalog.tables import drops, quarantine
from ml.errors import UnavailableError
from serving.api.route_classes import requires_role
from serving.auth.access import BASIC
from serving.console import overview, pictures
from serving.console.pictures import Place
from serving.console.templates import render
from serving.dependencies import Injected
from serving.errors import ProblemError

router = APIRouter(include_in_schema=False, route_class=requires_role("operate", BASIC))

PAGE: Final = 24
_SECONDS: Final = 4.0

Id = Annotated[int, Path(ge=1, le=2**63 - 1)]
Before = Annotated[int | None, Query(ge=1, le=2**63 - 1)]
DropId = Annotated[str | None, Query(max_length=100)]


@router.get("/console/quarantine", response_class=HTMLResponse)
async def page(dependencies: Injected, drop: DropId = None, before: Before = None) -> HTMLResponse:
    """The newest first: images in quarantine now, or all that were ever quarantined from one drop."""
    try:
        content = await dependencies.database.run_within(_SECONDS, read, dependencies.engine, drop, before)
    except (UnavailableError, ProblemError) as error:
        return HTMLResponse(render("quarantine.html", dependencies.settings, error=str(error)), 503)
    prefix = dependencies.settings.drops_prefix
    return HTMLResponse(render("quarantine.html", dependencies.settings, drop=drop, drops_prefix=prefix, **content))


@router.get("/console/quarantine/{number}/picture")
async def picture(number: Id, dependencies: Injected) -> Response:
    """A small JPEG of the image; a placeholder where it cannot be decoded."""
    return await pictures.respond(dependencies, lambda: _place(dependencies.engine, number))


def read(engine: Engine, drop: str | None, before: int | None) -> dict[str, Any]:
    """Read a page of rows, the total, and where the next page begins.

    Raises:
        UnavailableError: Postgres does not answer, or not in time.
    """
    condition = quarantine.c.drop_id == drop if drop else quarantine.c.status == "held"
    query = select(quarantine, drops.c.prefix, drops.c.report_key).join(drops, quarantine.c.drop_id == drops.c.id)
    query = query.where(condition).order_by(quarantine.c.id.desc()).limit(PAGE + 1)
    if before is not None:
        query = query.where(quarantine.c.id < before)
    with transaction(engine) as connection:
        limit_statements(connection, overview.STATEMENT_MILLISECONDS)
        total = connection.execute(select(func.count()).select_from(quarantine).where(condition)).scalar_one()
        rows: list[Mapping[str, Any]] = [dict(row) for row in connection.execute(query).mappings()]
    following = rows[PAGE - 1]["id"] if len(rows) > PAGE else None
    return {"rows": rows[:PAGE], "total": total, "following": following, "first": before is None}


def _place(engine: Engine, number: int) -> Place | None:
    with transaction(engine) as connection:
        key = connection.execute(select(quarantine.c.object_key).where(quarantine.c.id == number)).scalar()
    return (key, 0, None) if key is not None else None
