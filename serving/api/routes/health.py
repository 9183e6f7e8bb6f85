"""GET /healthz, /readyz, /metrics: for supervisors, balancers and Prometheus."""

import asyncio

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from serving.api.schemas import problems
from serving.dependencies import Injected

router = APIRouter(tags=["operation"])


class Alive(BaseModel):
    status: str = "alive"


class Ready(BaseModel):
    """Attributes: model_version: the live version of this worker."""

    model_config = {"protected_namespaces": ()}

    status: str = "ready"
    model_version: int


@router.get("/healthz", summary="The worker is alive")
async def alive() -> Alive:
    return Alive()


@router.get("/readyz", summary="The worker can answer", responses=problems(_503="No model yet, or no keys known."))
async def ready(dependencies: Injected) -> Ready:
    dependencies.access.check_ready()
    return Ready(model_version=dependencies.predictor.live().version)


@router.get("/metrics", summary="Prometheus metrics of all workers", response_class=PlainTextResponse)
async def metrics(dependencies: Injected) -> Response:
    return Response(await asyncio.to_thread(dependencies.metrics.text), media_type=CONTENT_TYPE_LATEST)
