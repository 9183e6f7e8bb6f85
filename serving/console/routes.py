"""GET / and /console: the page; GET /v1/console/overview: its data."""

import asyncio
import time
from typing import Any, Final

import orjson
from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from ml.errors import UnavailableError
from serving.api.route_classes import requires_role
from serving.api.routes.model import describe
from serving.auth.access import BASIC
from serving.console import deployments, drops, files, labels, overview, quarantine
from serving.console.templates import FOLDER, render
from serving.dependencies import Dependencies, Injected
from serving.errors import ProblemError

router = APIRouter(tags=["console"], route_class=requires_role("operate", BASIC))
router.include_router(files.router)
router.include_router(quarantine.router)
router.include_router(drops.router)
router.include_router(deployments.router)
router.include_router(labels.router)

SECONDS: Final = 4.0
FRESH_SECONDS: Final = 1.5


def static() -> StaticFiles:
    return StaticFiles(directory=FOLDER / "static")


@router.get("/", response_class=HTMLResponse, include_in_schema=False)
@router.get("/console", response_class=HTMLResponse, include_in_schema=False)
async def page(dependencies: Injected) -> HTMLResponse:
    return HTMLResponse(render("page.html", dependencies.settings))


@router.get("/v1/console/overview", summary="What the console shows")
async def console_overview(dependencies: Injected) -> Response:
    """The live model, and the catalog's data; `catalog` is `away` while the catalog does not answer."""
    live = dependencies.slot.get()
    answer: dict[str, Any] = {"model": describe(live, dependencies.identity.id).model_dump() if live else None}
    try:
        answer |= {"catalog": "answers", **await dependencies.database.run_within(SECONDS, _recent, dependencies)}
    except (UnavailableError, ProblemError):
        answer |= {"catalog": "away", "cycles": None, "replicas": None, "predictions": None, "held_drops": None}
    answer["log"] = await asyncio.to_thread(dependencies.prediction_log.stats)
    return Response(orjson.dumps(answer), media_type="application/json")


def _recent(dependencies: Dependencies) -> dict[str, Any]:
    """The catalog's data, cached so that many open pages cost one query."""
    read_at, content = dependencies.cache.get("overview", (float("-inf"), {}))
    if time.monotonic() - read_at > FRESH_SECONDS:
        content = overview.read(dependencies.engine, dependencies.settings)
        dependencies.cache["overview"] = (time.monotonic(), content)
    return content
