"""OpenTelemetry traces, where `EVERGREEN_TRACES_URL` names a collector. Imported only then: extra `traces`.

A request's span begins with what its `traceparent` says. The stages below it are made after the answer, from
times that were noted on the way, and sent by a thread: tracing adds next to nothing to an answer.
"""

import time
from collections.abc import Sequence
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.telemetry import stages
from serving.telemetry.stages import Stages

_SEND_SECONDS: Final = 5.0
_CARRIED: Final = (b"traceparent", b"tracestate")


class Tracing:
    """Makes spans and sends them; one a worker.

    Args:
        url: base of the collector's OTLP/HTTP receiver; `/v1/traces` is added.
        share: of requests that come without a `traceparent`; one that says it is sampled always is.
        replica: this worker, as `service.instance.id`.
    """

    def __init__(self, url: str, share: float, replica: str) -> None:
        resource = Resource.create({"service.name": "evergreen", "service.instance.id": replica})
        self._provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(share)), resource=resource)
        exporter = OTLPSpanExporter(endpoint=f"{url.rstrip('/')}/v1/traces", timeout=_SEND_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("evergreen.serving")
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, scope: Scope) -> Span:
        """The span of a request; the caller ends it."""
        carried = {k.decode(): v.decode("latin-1") for k, v in scope["headers"] if k in _CARRIED}
        return self._tracer.start_span(scope["method"], context=self._propagator.extract(carried), kind=SpanKind.SERVER)

    def add(self, parent: Span, noted: Stages, offset: int) -> None:
        """The stages as spans below.

        Args:
            offset: nanoseconds from `time.perf_counter` to the epoch.
        """
        context = trace.set_span_in_context(parent)
        for name, begun, ended in noted:
            child = self._tracer.start_span(name, context=context, start_time=int(begun * 1e9) + offset)
            child.end(int(ended * 1e9) + offset)

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Outside of everything else, so that a span is as long as its request."""
        return _Middleware(app, self)

    def close(self) -> None:
        """Send what waits."""
        self._provider.shutdown()


class _Middleware:
    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app, self._tracing = app, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        span = self._tracing.begin(scope)
        if not span.is_recording():
            await self._app(scope, receive, send)
            return
        noted: Stages = []
        scope[stages.SCOPE_KEY] = noted
        offset = time.time_ns() - time.perf_counter_ns()
        status = 0

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        finally:
            self._tracing.add(span, noted, offset)
            _describe(span, scope, status)
            span.end()


def _describe(span: Span, scope: Scope, status: int) -> None:
    route: Any = getattr(scope.get("route"), "path", None)
    told: Sequence[tuple[str, Any]] = (
        ("http.request.method", scope["method"]),
        ("http.route", route),
        ("url.path", scope["path"]),
        ("http.response.status_code", status or None),
        ("evergreen.request_id", scope.get("request_id")),
        ("evergreen.caller", scope.get("state", {}).get("caller")),
    )
    span.set_attributes({name: value for name, value in told if value is not None})
    if route:
        span.update_name(f"{scope['method']} {route}")
    if status == 0 or status >= 500:
        span.set_status(StatusCode.ERROR)
