"""What the routes work with, made once a worker and injected by FastAPI."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Request
from sqlalchemy import Engine

from ml.context import Context
from ml.settings import Settings
from ml.storage.object_store import ObjectStore
from serving.auth.access import AccessControl
from serving.inference.predictor import Predictor
from serving.inference.queue import BoundedThreadPool, InferenceQueue
from serving.prediction_log.log import PredictionLog
from serving.rollout.heartbeat import Identity
from serving.rollout.serving_model import ModelSlot
from serving.telemetry.metrics import Metrics


@dataclass(frozen=True)
class Dependencies:
    """Built once a worker by `serving.app.build`.

    Attributes:
        inference: the thread that decodes and infers, and the queue before it.
        access: decides who may do what.
        database: threads that may wait for Postgres, so that nothing else does.
        store: the bucket of reports and of what lies in quarantine.
        storage: threads that may wait for it.
        pictures: threads that wait for processes that decode.
        context: what an operator's deployment works with.
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
    inference: InferenceQueue
    access: AccessControl
    database: BoundedThreadPool
    store: ObjectStore
    storage: BoundedThreadPool
    pictures: BoundedThreadPool
    context: Context
    operators: BoundedThreadPool
    sources: Mapping[str, ObjectStore]
    remembered: dict[str, tuple[float, dict[str, Any]]] = field(default_factory=dict)


async def _dependencies(request: Request) -> Dependencies:  # a plain function would cost each request a thread
    dependencies: Dependencies = request.app.state.dependencies
    return dependencies


Injected = Annotated[Dependencies, Depends(_dependencies)]
