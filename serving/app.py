"""The service, put together; `python -m serving` runs it."""

import asyncio
import logging
import os
import sys
import time
import warnings
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware

from ml import objects
from ml.catalog import engine as catalog_engine
from ml.context import Context
from ml.errors import InvalidInputError
from ml.images import Limits
from ml.settings import Settings
from serving import logs, memory, openapi, problems
from serving.access import Guard
from serving.balance import Balance
from serving.console import routes as console
from serving.deadline import Bounds
from serving.drain import Drain
from serving.edge import Edge
from serving.express import Express, direct_routes
from serving.follower import Follower
from serving.image_policy import ImagePolicy
from serving.keyring import KeyKeeper, KeyRing
from serving.line import Line
from serving.loader import BundleLoader
from serving.logs import AccessLog
from serving.metrics import Metrics
from serving.model_slot import ModelSlot
from serving.parts import Parts
from serving.pool import Pool
from serving.prediction_log import PredictionLog
from serving.predictor import Predictor
from serving.rate_limit import Rates
from serving.referee import Referee
from serving.reject import Reject
from serving.replicas import Identity, Replica
from serving.routes import (
    accuracy,
    batch,
    decisions,
    feedback,
    health,
    model,
    open_inference,
    operate,
    predict,
    predictions,
)
from serving.shadow import Shadow
from serving.spool import FILE_BYTES, Spool
from serving.spool_watch import SpoolWatch
from serving.storing import Storing

if TYPE_CHECKING:
    from serving.tracing import Tracing

INFERENCE_WAITING: Final = 40
SWITCH_SECONDS: Final = 0.0005
"""Inference gets Python's lock back so soon from a busy event loop; by default after 5 ms."""
DATABASE_THREADS: Final = 4
DATABASE_WAITING: Final = 32
STORAGE_THREADS: Final = 2
STORAGE_WAITING: Final = 32
PICTURE_THREADS: Final = 2
PICTURES_WAITING: Final = 96
OPERATOR_THREADS: Final = 2
OPERATORS_WAITING: Final = 4
GOODBYE_SECONDS: Final = 3.0
REPLACED_SECONDS: Final = 3.0  # uvicorn's supervisor gives a worker five to start
"""So long a worker in the place of a dead one takes no connections while it has no model: the others have one."""

log = logging.getLogger(__name__)

_CORS: Final[dict[str, Any]] = {
    "allow_methods": ["GET", "POST"],
    "allow_headers": ["authorization", "content-type", "x-api-key", "x-client-key", "x-request-id"],
    "expose_headers": ["ratelimit", "ratelimit-policy", "retry-after", "x-request-id"],
}

_ABOUT = """Answers what an image shows, with the newest model that proved better than the one before.

Models change while the service runs; each answer names the version that gave it."""


def create_app(balance: Balance | None = None, rates: Rates | None = None) -> FastAPI:
    """The app of this worker, from the environment; `balance` and `rates` where it is one of several."""
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it logs each retry of an outage
    sys.setswitchinterval(SWITCH_SECONDS)
    memory.bound()
    warnings.filterwarnings("ignore", module="PIL")  # each broken file has words of its own, and they are remembered
    settings = Settings.load(os.environ)
    logs.set_up(settings.log_format)
    if settings.api_keys == "loopback":
        log.warning(
            "NO API KEY IS NEEDED FROM THIS MACHINE (`EVERGREEN_API_KEYS=loopback`): every program and every user "
            "on it may ask, operate and administer; set `required` where others have an account"
        )
    return build(settings, os.environ, balance, rates)


@dataclass(frozen=True)
class _Threads:
    replica: Replica
    follower: Follower
    drain: Drain
    watch: SpoolWatch
    keeper: KeyKeeper
    access_log: AccessLog
    shadow: Shadow
    referee: Referee
    trimmer: memory.Trimmer

    def start(self) -> None:
        before = (self.access_log, self.keeper, self.drain, self.watch, self.shadow)
        for thread in (*before, self.follower, self.replica, self.referee, self.trimmer):
            thread.start()

    def stop(self) -> None:
        """The replica signs off first, so that no release waits for it."""
        after = (self.shadow, self.watch, self.drain, self.keeper, self.access_log)
        for thread in (self.replica, self.referee, self.follower, *after, self.trimmer):
            thread.stop(GOODBYE_SECONDS)


def build(
    settings: Settings, environ: Mapping[str, str], balance: Balance | None = None, rates: Rates | None = None
) -> FastAPI:
    """The composition: everything is made here and nowhere else; nothing is contacted before the app starts."""
    identity, metrics, slot = Identity.detect(), Metrics(environ), ModelSlot()
    engine = catalog_engine.connect(settings)
    own = Spool(settings.home / "spool", identity.path, min(FILE_BYTES, settings.spool_bytes // 16))
    prediction_log = PredictionLog(own, settings.spool_bytes, ImagePolicy.of(settings), metrics)
    artifacts = objects.connect(settings, settings.artifacts_bucket)
    wishes = settings.service_variant, settings.service_runtime
    loader = BundleLoader(settings.home / "bundles", artifacts, settings.probe_tolerance, *wishes)
    follower = Follower(slot, loader, metrics)
    replica = Replica(identity, engine, slot, follower, settings.heartbeat_seconds)

    def on_news() -> None:
        replica.wake()
        if balance:
            balance.tell()

    follower.on_news = on_news
    store = objects.connect(settings, settings.store_bucket)
    release = Context(settings, engine, objects.connect(settings, settings.labels_bucket), store, artifacts)
    # The drain tries again itself: a connection that will never answer must not hold it for minutes.
    impatient = objects.connect(settings, settings.store_bucket, read_seconds=10, tries=1)
    limits = Limits(min(settings.max_image_bytes, settings.max_body_bytes), settings.max_image_pixels)
    shadow, ring = Shadow(limits), KeyRing()
    line = Line("inference", INFERENCE_WAITING, settings.max_wait_seconds)
    threads = _Threads(
        replica,
        follower,
        Drain(own, Storing(engine, impatient, metrics)),
        SpoolWatch(own, prediction_log, metrics),
        KeyKeeper(ring, engine, settings.home),
        AccessLog(settings.access_log),
        shadow,
        Referee(slot, release),
        memory.Trimmer(),
    )
    parts = Parts(
        settings=settings,
        identity=identity,
        engine=engine,
        metrics=metrics,
        slot=slot,
        prediction_log=prediction_log,
        guard=Guard(ring, metrics, rates or Rates(), keyless_loopback=settings.api_keys == "loopback"),
        predictor=Predictor(slot, prediction_log, limits, metrics, Reject.of(settings), shadow, line),
        inference=line,
        database=Pool("database", DATABASE_THREADS, DATABASE_WAITING),
        store=store,
        storage=Pool("storage", STORAGE_THREADS, STORAGE_WAITING),
        pictures=Pool("pictures", PICTURE_THREADS, PICTURES_WAITING),
        release=release,
        operators=Pool("operators", OPERATOR_THREADS, OPERATORS_WAITING),
        sources={bucket.bucket: bucket for bucket in (store, release.labels)},
    )
    if balance:
        balance.ready = lambda: slot.take() is not None
    return _app(parts, threads, REPLACED_SECONDS if balance and balance.again else 0.0)


def _app(parts: Parts, threads: _Threads, patience: float) -> FastAPI:
    tracing = _tracing(parts.settings, parts.identity)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        threads.start()
        await _model(parts.slot, patience)
        yield
        parts.inference.close(GOODBYE_SECONDS)  # what was answered is logged before the log is closed
        threads.stop()
        if tracing:
            tracing.close()
        for pool in (parts.database, parts.storage, parts.pictures, parts.operators):
            pool.close()
        parts.engine.dispose()

    app = FastAPIOffline(
        title="Evergreen", version="1", description=_ABOUT, lifespan=lifespan, docs_url="/docs", redoc_url=None
    )
    app.state.parts = parts
    problems.install(app)
    for module in (predict, batch, feedback, predictions, accuracy, decisions, operate, model, health, console):
        app.include_router(module.router)
    app.include_router(open_inference.guarded)
    app.include_router(open_inference.router)
    app.mount("/console/static", console.static(), "console-static")
    app.add_middleware(Express, routes=direct_routes(app))
    settings = parts.settings
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=settings.cors_origins, **_CORS)
    airflow = urlsplit(settings.airflow_url)
    app.add_middleware(
        Edge,
        bounds=Bounds(settings.max_body_bytes, settings.body_seconds, settings.answer_seconds),
        metrics=parts.metrics,
        access_log=threads.access_log,
        frame_ancestors=f"{airflow.scheme}://{airflow.netloc}",
    )
    if tracing:
        app.add_middleware(tracing.middleware)
    openapi.complete(app, keyless=settings.api_keys == "loopback")
    return app


async def _model(slot: ModelSlot, seconds: float) -> None:
    """Until there is one, so long at most."""
    end = time.monotonic() + seconds
    while slot.take() is None and time.monotonic() < end:
        await asyncio.sleep(0.02)


def _tracing(settings: Settings, identity: Identity) -> "Tracing | None":
    """Where traces are wanted.

    Raises:
        InvalidInputError: they are, and OpenTelemetry is not installed.
    """
    if settings.traces_url is None:
        return None
    try:
        from serving.tracing import Tracing
    except ImportError as error:
        raise InvalidInputError(
            f"`EVERGREEN_TRACES_URL` is set, and OpenTelemetry is missing ({error.name}): install `evergreen[traces]`"
        ) from error
    return Tracing(settings.traces_url, settings.traces_share, identity.id)
