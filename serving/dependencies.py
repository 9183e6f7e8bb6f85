"""The objects that routes use, created once per worker and injected by FastAPI."""

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
    """Built once per worker by `serving.app.build`.

    Attributes:
        inference: the thread that decodes and infers, with its queue.
        access: authentication, authorization and rate limits.
        database: threads for queries, so that nothing else waits for Postgres.
        store: the bucket of reports and of quarantined images.
        storage: threads for requests to buckets.
        pictures: threads that wait for the processes that decode images.
        context: used by an operator's deployment.
        operators: threads that wait for deployments to end.
        sources: the buckets that `s3://` URLs may name.
        cache: values read a moment ago, each with its time by `time.monotonic`.
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
    cache: dict[str, tuple[float, dict[str, Any]]] = field(default_factory=dict)


async def _dependencies(request: Request) -> Dependencies:  # FastAPI would run a plain function in a thread
    dependencies: Dependencies = request.app.state.dependencies
    return dependencies


Injected = Annotated[Dependencies, Depends(_dependencies)]
