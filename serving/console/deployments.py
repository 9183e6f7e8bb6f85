"""GET /console/deployments: what served when, who decided it and why, and the state of trials."""

from typing import Annotated, Final

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse

from ml.catalog import deployments
from ml.catalog.deployments import DeploymentRecord
from ml.errors import UnavailableError
from serving.api.route_classes import requires_role
from serving.auth.access import BASIC
from serving.console.templates import render
from serving.dependencies import Injected
from serving.errors import ProblemError

router = APIRouter(include_in_schema=False, route_class=requires_role("operate", BASIC))

PAGE: Final = 20
_SECONDS: Final = 4.0


@router.get("/console/deployments", response_class=HTMLResponse)
async def page(dependencies: Injected, before: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None) -> HTMLResponse:
    try:
        records = await dependencies.database.run_within(
            _SECONDS, deployments.history, dependencies.engine, PAGE + 1, before
        )
    except (UnavailableError, ProblemError) as error:
        return HTMLResponse(render("deployments.html", dependencies.settings, error=str(error)), 503)
    following = records[PAGE - 1].id if len(records) > PAGE else None
    rows = [(record, BADGES[record.status], _seconds(record)) for record in records[:PAGE]]
    return HTMLResponse(
        render("deployments.html", dependencies.settings, rows=rows, following=following, first=before is None)
    )


BADGES: Final = {"live": "good", "superseded": "idle", "failed": "bad", "rolling": "warn", "trial": "warn"}


def _seconds(record: DeploymentRecord) -> float | None:
    """From the start of the deployment to its end."""
    return (record.finished_at - record.created_at).total_seconds() if record.finished_at else None
