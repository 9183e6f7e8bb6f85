"""GET / and /console: the page; GET /v1/console/overview: what it shows."""

import time
from pathlib import Path
from typing import Any, Final

import orjson
from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, select_autoescape
from starlette.staticfiles import StaticFiles

from ml.errors import UnavailableError
from serving.console import overview
from serving.parts import Parts, Served
from serving.problems import ProblemError
from serving.routes.model import describe

router = APIRouter(tags=["console"])

FOLDER: Final = Path(__file__).parent
SECONDS: Final = 4.0
FRESH_SECONDS: Final = 1.5

_templates = Environment(loader=FileSystemLoader(FOLDER), autoescape=select_autoescape())


def static() -> StaticFiles:
    return StaticFiles(directory=FOLDER / "static")


@router.get("/", response_class=HTMLResponse, include_in_schema=False)
@router.get("/console", response_class=HTMLResponse, include_in_schema=False)
async def page(parts: Served) -> HTMLResponse:
    settings = parts.settings
    links = {"MLflow": settings.mlflow_url, "Airflow": settings.airflow_url, "API": "/docs"}
    return HTMLResponse(_templates.get_template("page.html").render(links=links, model_name=settings.model_name))


@router.get("/v1/console/overview", summary="What the console shows")
async def console_overview(parts: Served) -> Response:
    """The live model, and what the catalog knows; without the catalog, that it is away."""
    live = parts.slot.take()
    answer: dict[str, Any] = {"model": describe(live, parts.identity.id).model_dump() if live else None}
    try:
        answer |= {"catalog": "answers", **await parts.database.run_within(SECONDS, _recent, parts)}
    except (UnavailableError, ProblemError):
        answer |= {"catalog": "away", "cycles": None, "replicas": None, "predictions": None}
    return Response(orjson.dumps(answer), media_type="application/json")


def _recent(parts: Parts) -> dict[str, Any]:
    """Many open pages ask Postgres once."""
    read_at, content = parts.remembered.get("overview", (float("-inf"), {}))
    if time.monotonic() - read_at > FRESH_SECONDS:
        content = overview.read(parts.engine, parts.settings)
        parts.remembered["overview"] = (time.monotonic(), content)
    return content
