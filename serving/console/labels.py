"""GET /console/labels: questions about labels, with pictures that are safe to show and buttons that answer."""

from typing import Annotated, Final

from fastapi import APIRouter, Path, Response
from fastapi.responses import HTMLResponse
from sqlalchemy import Engine

from ml.catalog import feedback, label_queue
from ml.catalog.engine import limit_statements, transaction
from ml.catalog.label_queue import LabelTaskRecord
from ml.errors import UnavailableError
from serving.api.route_classes import requires_role
from serving.auth.access import BASIC
from serving.console import overview, pictures
from serving.console.pictures import Place
from serving.console.templates import render
from serving.dependencies import Dependencies, Injected
from serving.errors import ProblemError

router = APIRouter(include_in_schema=False, route_class=requires_role("review", BASIC))

PAGE: Final = 24
_SECONDS: Final = 4.0

Id = Annotated[int, Path(ge=1, le=2**63 - 1)]


@router.get("/console/labels", response_class=HTMLResponse)
async def page(dependencies: Injected) -> HTMLResponse:
    """The most doubtful first; what is answered leaves the page, and the next ones take its place."""
    try:
        tasks, total, classes = await dependencies.database.run_within(_SECONDS, _read, dependencies)
    except (UnavailableError, ProblemError) as error:
        return HTMLResponse(render("labels.html", dependencies.settings, error=str(error)), 503)
    return HTMLResponse(render("labels.html", dependencies.settings, tasks=tasks, total=total, classes=classes))


@router.get("/console/labels/{number}/picture")
async def picture(number: Id, dependencies: Injected) -> Response:
    """A small JPEG of the image of a prediction; a placeholder where it is not kept or cannot be decoded."""
    return await pictures.respond(dependencies, lambda: _place(dependencies.engine, number))


def _read(dependencies: Dependencies) -> tuple[list[LabelTaskRecord], int, list[str]]:
    with transaction(dependencies.engine) as connection:
        limit_statements(connection, overview.STATEMENT_MILLISECONDS)
        tasks, total = label_queue.open_tasks(connection, PAGE), label_queue.count_open(connection)
        return tasks, total, sorted(feedback.known_classes(connection))


def _place(engine: Engine, number: int) -> Place | None:
    with transaction(engine) as connection:
        return label_queue.image_of_task(connection, number)
