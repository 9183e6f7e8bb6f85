"""GET /healthz, /readyz, /metrics: for supervisors, balancers and Prometheus."""

import asyncio

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from serving.parts import Served
from serving.schemas import problems

router = APIRouter(tags=["operation"])


class Alive(BaseModel):
    status: str = "alive"


class Ready(BaseModel):
    """Attributes: model_version: what this worker answers with."""

    model_config = {"protected_namespaces": ()}

    status: str = "ready"
    model_version: int


@router.get("/healthz", summary="The worker is alive")
async def alive() -> Alive:
    return Alive()


@router.get("/readyz", summary="The worker can answer", responses=problems(_503="No model yet, or no keys known."))
async def ready(parts: Served) -> Ready:
    parts.guard.check_ready()
    return Ready(model_version=parts.predictor.live().version)


@router.get("/metrics", summary="Prometheus metrics of all workers", response_class=PlainTextResponse)
async def metrics(parts: Served) -> Response:
    return Response(await asyncio.to_thread(parts.metrics.text), media_type=CONTENT_TYPE_LATEST)
