"""OpenTelemetry traces, sent where `EVERGREEN_TRACES_URL` names a collector; needs the extra `traces`.

A request's span continues the trace of its `traceparent`. The child spans of its stages are created after the
response, from recorded times, and exported by a thread: tracing adds next to nothing to the latency.
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
_TRACE_HEADERS: Final = (b"traceparent", b"tracestate")


class Tracing:
    """Creates and exports spans; one per worker.

    Args:
        url: base of the collector's OTLP/HTTP receiver; `/v1/traces` is added.
        share: of requests without a `traceparent` that are sampled; one whose `traceparent` says sampled always is.
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
        """Start the span of a request; the caller ends it."""
        trace_headers = {k.decode(): v.decode("latin-1") for k, v in scope["headers"] if k in _TRACE_HEADERS}
        return self._tracer.start_span(
            scope["method"], context=self._propagator.extract(trace_headers), kind=SpanKind.SERVER
        )

    def add(self, parent: Span, recorded: Stages, offset: int) -> None:
        """Add the stages as child spans.

        Args:
            offset: nanoseconds from `time.perf_counter` to the epoch.
        """
        context = trace.set_span_in_context(parent)
        for name, started, ended in recorded:
            child = self._tracer.start_span(name, context=context, start_time=int(started * 1e9) + offset)
            child.end(int(ended * 1e9) + offset)

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """The outermost middleware, so that a span covers the whole request."""
        return _Middleware(app, self)

    def close(self) -> None:
        """Export the pending spans."""
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
        recorded: Stages = []
        scope[stages.SCOPE_KEY] = recorded
        offset = time.time_ns() - time.perf_counter_ns()
        status = 0

        async def send_with_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_with_status)
        finally:
            self._tracing.add(span, recorded, offset)
            _describe(span, scope, status)
            span.end()


def _describe(span: Span, scope: Scope, status: int) -> None:
    route: Any = getattr(scope.get("route"), "path", None)
    attributes: Sequence[tuple[str, Any]] = (
        ("http.request.method", scope["method"]),
        ("http.route", route),
        ("url.path", scope["path"]),
        ("http.response.status_code", status or None),
        ("evergreen.request_id", scope.get("request_id")),
        ("evergreen.caller", scope.get("state", {}).get("caller")),
    )
    span.set_attributes({name: value for name, value in attributes if value is not None})
    if route:
        span.update_name(f"{scope['method']} {route}")
    if status == 0 or status >= 500:
        span.set_status(StatusCode.ERROR)
