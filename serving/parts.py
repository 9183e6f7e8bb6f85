"""The service's parts, as its routes see them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Request
from sqlalchemy import Engine

from ml.context import Context
from ml.objects import ObjectStore
from ml.settings import Settings
from serving.access import Guard
from serving.line import Line
from serving.metrics import Metrics
from serving.model_slot import ModelSlot
from serving.pool import Pool
from serving.prediction_log import PredictionLog
from serving.predictor import Predictor
from serving.replicas import Identity


@dataclass(frozen=True)
class Parts:
    """Built once a worker by `serving.app.build`.

    Attributes:
        inference: the thread that decodes and infers, and the line before it.
        guard: knows who may ask for what.
        database: threads that may wait for Postgres, so that nothing else does.
        store: the bucket of reports and of what lies in quarantine.
        storage: threads that may wait for it.
        pictures: threads that wait for processes that decode.
        release: what an operator's move works with.
        operators: threads that wait for its end.
        sources: the buckets that `s3://` URLs may name.
        remembered: what was read a moment ago, with the time by `time.monotonic`.
    """

    settings: Settings
    identity: Identity
    engine: Engine
    metrics: Metrics
    slot: ModelSlot
    predictor: Predictor
    prediction_log: PredictionLog
    inference: Line
    guard: Guard
    database: Pool
    store: ObjectStore
    storage: Pool
    pictures: Pool
    release: Context
    operators: Pool
    sources: Mapping[str, ObjectStore]
    remembered: dict[str, tuple[float, dict[str, Any]]] = field(default_factory=dict)


async def _parts(request: Request) -> Parts:  # a plain function would cost each request a thread
    parts: Parts = request.app.state.parts
    return parts


Served = Annotated[Parts, Depends(_parts)]
