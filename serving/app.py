"""Builds the service's FastAPI app; `python -m serving` runs it."""

import asyncio
import logging
import os
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

from ml.catalog.feedback import FeedbackLimits
from ml.context import Context, connect
from ml.errors import InvalidInputError
from ml.imaging.images import Limits
from ml.models import bundle
from ml.settings import Settings
from ml.storage import object_store
from serving.api import openapi, problems
from serving.api.middleware import RequestMiddleware
from serving.api.multipart import image_bytes
from serving.api.route_classes import FastPathMiddleware, raw_routes
from serving.api.routes import (
    accuracy,
    batch,
    decisions,
    feedback,
    health,
    label_tasks,
    model,
    open_inference,
    operate,
    predict,
    predictions,
)
from serving.api.timeouts import RequestLimits
from serving.auth.access import AccessControl
from serving.auth.keys import KeyRing, KeySync
from serving.auth.rate_limit import RateLimiter
from serving.console import routes as console
from serving.dependencies import Dependencies
from serving.inference.predictor import Predictor, RejectPolicy
from serving.inference.queue import BoundedThreadPool, InferenceQueue
from serving.prediction_log.erased import SpoolCleaner
from serving.prediction_log.log import PredictionLog
from serving.prediction_log.retention import ImagePolicy
from serving.prediction_log.spool import FILE_BYTES, Spool
from serving.prediction_log.uploader import PairStore, SpoolMonitor, Uploader
from serving.rollout.bundle_loader import BundleLoader
from serving.rollout.heartbeat import Heartbeat, Identity
from serving.rollout.reloader import ModelReloader
from serving.rollout.serving_model import ModelSlot
from serving.rollout.shadow import ShadowRunner
from serving.rollout.trial_monitor import TrialMonitor
from serving.server import memory
from serving.server.balance import ConnectionBalancer
from serving.telemetry import logs
from serving.telemetry.logs import AccessLog
from serving.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from serving.telemetry.tracing import Tracing

INFERENCE_WAITING: Final = 40
DATABASE_THREADS: Final = 4
DATABASE_WAITING: Final = 32
STORAGE_THREADS: Final = 2
STORAGE_WAITING: Final = 32
PICTURE_THREADS: Final = 2
PICTURES_WAITING: Final = 96
OPERATOR_THREADS: Final = 2
OPERATORS_WAITING: Final = 4
SHUTDOWN_SECONDS: Final = 3.0
REPLACEMENT_WAIT_SECONDS: Final = 3.0  # uvicorn's supervisor gives a worker five to start
"""Seconds that the replacement of a dead worker accepts no connections while it has no model: the others have one."""

log = logging.getLogger(__name__)

_CORS: Final[dict[str, Any]] = {
    "allow_methods": ["GET", "POST"],
    "allow_headers": ["authorization", "content-type", "x-api-key", "x-client-key", "x-request-id"],
    "expose_headers": ["ratelimit", "ratelimit-policy", "retry-after", "x-request-id"],
}

_DESCRIPTION = """Answers what an image shows, with the newest model that proved better than the one before.

Models change while the service runs; each answer names the version that gave it."""


def create_app(balancer: ConnectionBalancer | None = None, rate_limiter: RateLimiter | None = None) -> FastAPI:
    """The app of this worker, from the environment.

    Args:
        balancer, rate_limiter: shared with the other workers of the host, where there are several.
    """
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it would log each retry during an outage
    warnings.filterwarnings("ignore", module="PIL")  # the registry of shown warnings would grow with each broken file
    settings = Settings.load(os.environ)
    logs.configure(settings.log_format)
    if settings.api_keys == "loopback":
        log.warning(
            "NO API KEY IS NEEDED FROM THIS MACHINE (`EVERGREEN_API_KEYS=loopback`): every program and every user "
            "on it may predict, operate and administer; set `required` where others have an account"
        )
    return build(settings, os.environ, balancer, rate_limiter)


@dataclass(frozen=True)
class _Threads:
    """The threads of a worker, in the order of their start."""

    access_log: AccessLog
    key_sync: KeySync
    uploader: Uploader
    spool_monitor: SpoolMonitor
    shadow: ShadowRunner
    reloader: ModelReloader
    heartbeat: Heartbeat
    trial_monitor: TrialMonitor
    heap_trimmer: memory.HeapTrimmer

    def start(self) -> None:
        for thread in vars(self).values():
            thread.start()

    def stop(self) -> None:
        """The heartbeat ends first, so that no release waits for this worker; the logs last."""
        for thread in (
            *(self.heartbeat, self.trial_monitor, self.reloader, self.shadow, self.spool_monitor),
            *(self.uploader, self.key_sync, self.access_log, self.heap_trimmer),
        ):
            thread.stop(SHUTDOWN_SECONDS)


def build(
    settings: Settings,
    environ: Mapping[str, str],
    balancer: ConnectionBalancer | None = None,
    rate_limiter: RateLimiter | None = None,
) -> FastAPI:
    """The composition root: creates every object. No server is contacted before the app starts."""
    context = connect(settings)
    identity, metrics, slot, key_ring = Identity.detect(), Metrics(environ), ModelSlot(), KeyRing()
    spool = Spool(settings.home / "spool", identity.path, min(FILE_BYTES, settings.spool_bytes // 16))
    prediction_log = PredictionLog(spool, settings.spool_bytes, ImagePolicy.from_settings(settings), metrics)
    limits = Limits(min(settings.max_image_bytes, settings.max_body_bytes), settings.max_image_pixels)
    queue = InferenceQueue("inference", INFERENCE_WAITING, settings.max_wait_seconds)
    shadow = ShadowRunner(limits)
    cleaner = SpoolCleaner(spool, context.engine)
    reloader, heartbeat = _rollout(context, identity, slot, metrics, balancer, cleaner)
    # The uploader retries itself: a connection that never answers must not block it for minutes.
    upload_store = object_store.connect(settings, settings.store_bucket, read_seconds=10, tries=1)
    threads = _Threads(
        access_log=AccessLog(settings.access_log),
        key_sync=KeySync(key_ring, context.engine, settings.home),
        uploader=Uploader(
            spool, PairStore(context.engine, upload_store, metrics, FeedbackLimits.from_settings(settings)), cleaner
        ),
        spool_monitor=SpoolMonitor(spool, prediction_log, metrics),
        shadow=shadow,
        reloader=reloader,
        heartbeat=heartbeat,
        trial_monitor=TrialMonitor(slot, context),
        heap_trimmer=memory.HeapTrimmer(),
    )
    keyless = settings.api_keys == "loopback"
    dependencies = Dependencies(
        settings=settings,
        identity=identity,
        engine=context.engine,
        metrics=metrics,
        slot=slot,
        prediction_log=prediction_log,
        access=AccessControl(key_ring, metrics, rate_limiter or RateLimiter(), keyless_loopback=keyless),
        predictor=Predictor(
            slot, prediction_log, limits, metrics, RejectPolicy.from_settings(settings), shadow, queue, image_bytes
        ),
        inference=queue,
        database=BoundedThreadPool("database", DATABASE_THREADS, DATABASE_WAITING),
        store=context.store,
        storage=BoundedThreadPool("storage", STORAGE_THREADS, STORAGE_WAITING),
        pictures=BoundedThreadPool("pictures", PICTURE_THREADS, PICTURES_WAITING),
        context=context,
        operators=BoundedThreadPool("operators", OPERATOR_THREADS, OPERATORS_WAITING),
        sources={bucket.bucket: bucket for bucket in (context.store, context.labels)},
    )
    if balancer:
        balancer.ready = lambda: slot.get() is not None
    return _app(dependencies, threads, REPLACEMENT_WAIT_SECONDS if balancer and balancer.is_replacement else 0.0)


def _rollout(
    context: Context,
    identity: Identity,
    slot: ModelSlot,
    metrics: Metrics,
    balancer: ConnectionBalancer | None,
    cleaner: SpoolCleaner,
) -> tuple[ModelReloader, Heartbeat]:
    """The threads that load the models the catalog wants live, and report the result to it."""
    settings = context.settings
    loader = BundleLoader(
        bundle.cache_folder(settings.home),
        context.artifacts,
        settings.probe_tolerance,
        settings.service_variant,
        settings.service_runtime,
    )
    reloader = ModelReloader(slot, loader, metrics)
    heartbeat = Heartbeat(
        identity, context.engine, slot, reloader, settings.heartbeat_seconds, lambda: cleaner.confirmed
    )

    def on_change() -> None:
        heartbeat.wake()
        if balancer:
            balancer.publish()

    reloader.on_change = on_change
    return reloader, heartbeat


def _app(dependencies: Dependencies, threads: _Threads, wait_seconds: float) -> FastAPI:
    tracing = _tracing(dependencies.settings, dependencies.identity)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        threads.start()
        await _wait_for_model(dependencies.slot, wait_seconds)
        yield
        dependencies.inference.close(SHUTDOWN_SECONDS)  # predictions are logged before the log is closed
        threads.stop()
        if tracing:
            tracing.close()
        for pool in (dependencies.database, dependencies.storage, dependencies.pictures, dependencies.operators):
            pool.close()
        dependencies.engine.dispose()

    app = FastAPIOffline(
        title="Evergreen", version="1", description=_DESCRIPTION, lifespan=lifespan, docs_url="/docs", redoc_url=None
    )
    app.state.dependencies = dependencies
    problems.install(app)
    for module in (
        *(predict, batch, feedback, predictions, accuracy, decisions, label_tasks),
        *(operate, model, health, console),
    ):
        app.include_router(module.router)
    app.include_router(open_inference.guarded)
    app.include_router(open_inference.router)
    app.mount("/console/static", console.static(), "console-static")
    _add_middleware(app, dependencies, threads.access_log)
    if tracing:
        app.add_middleware(tracing.middleware)
    openapi.complete(app, keyless=dependencies.settings.api_keys == "loopback")
    return app


def _add_middleware(app: FastAPI, dependencies: Dependencies, access_log: AccessLog) -> None:
    """Add the middleware, the innermost first."""
    settings = dependencies.settings
    app.add_middleware(FastPathMiddleware, routes=raw_routes(app))
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=settings.cors_origins, **_CORS)
    airflow = urlsplit(settings.airflow_url)
    app.add_middleware(
        RequestMiddleware,
        limits=RequestLimits(settings.max_body_bytes, settings.body_seconds, settings.answer_seconds),
        metrics=dependencies.metrics,
        access_log=access_log,
        frame_ancestors=f"{airflow.scheme}://{airflow.netloc}",
    )


async def _wait_for_model(slot: ModelSlot, seconds: float) -> None:
    """Return once there is a live model, or after `seconds`."""
    end = time.monotonic() + seconds
    while slot.get() is None and time.monotonic() < end:
        await asyncio.sleep(0.02)


def _tracing(settings: Settings, identity: Identity) -> "Tracing | None":
    """The exporter of traces, None where no URL is set.

    Raises:
        InvalidInputError: a URL is set and OpenTelemetry is not installed.
    """
    if settings.traces_url is None:
        return None
    try:
        from serving.telemetry.tracing import Tracing
    except ImportError as error:
        raise InvalidInputError(
            f"`EVERGREEN_TRACES_URL` is set, and OpenTelemetry is missing ({error.name}): install `evergreen[traces]`"
        ) from error
    return Tracing(settings.traces_url, settings.traces_share, identity.id)
