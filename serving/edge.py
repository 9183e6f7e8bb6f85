"""What every request passes, whatever it asks for: an id, a size limit, headers, a count, and no raw 500."""

import logging
import re
import time
import uuid
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import problems
from serving.console import files
from serving.metrics import Metrics

log = logging.getLogger(__name__)

_SANE_ID: Final = re.compile(r"[\w.:-]{1,100}", re.ASCII)
_CLOSED_EARLY: Final = 499


class Edge:
    """Outermost middleware, plain ASGI: no task and no queue between it and the endpoint.

    Args:
        app: what answers.
        max_body_bytes: checked against the announced length, and again while the body is read.
        frame_ancestors: origins that may show the console in a frame.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int, metrics: Metrics, frame_ancestors: str) -> None:
        self._app = RequestBodyLimitMiddleware(app, max_body_bytes)
        self._limit, self._metrics = max_body_bytes, metrics
        policy = (
            "default-src 'none'; script-src 'self'{inline}; style-src 'self'{inline}; img-src 'self' data: blob:; "
            f"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self' {frame_ancestors}"
        )
        self._policy = policy.format(inline="").strip()
        self._files_policy = f"{files.POLICY}; frame-ancestors 'self' {frame_ancestors}".strip()
        # Swagger UI's page starts itself with an inline script.
        self._docs_policy = policy.format(inline=" 'unsafe-inline'").strip()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0
        scope["request_id"] = request_id = _request_id(scope)

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._decorate(message, scope["path"], request_id)
            await send(message)

        try:
            await self._inner(scope, receive, send_with_headers)
        except ClientDisconnect:
            status = _CLOSED_EARLY
        except Exception:
            log.exception("request %s: %s %s failed", request_id, scope["method"], scope["path"])
            if status:
                raise
            detail = f"an error of the service itself; its log has it under request id {request_id}"
            answer = problems.response(request_id, scope["path"], 500, "internal", detail)
            await answer(scope, receive, send_with_headers)
        finally:
            self._count(scope, status, time.perf_counter() - started)

    async def _inner(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdecimal() and int(length) > self._limit:
            detail = f"the body is {length} bytes, at most {self._limit} are accepted"
            answer = problems.response(scope["request_id"], scope["path"], 413, "content_too_large", detail)
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _decorate(self, message: Message, path: str, request_id: str) -> None:
        headers = MutableHeaders(scope=message)
        headers["x-request-id"] = request_id
        headers["x-content-type-options"] = "nosniff"
        headers["referrer-policy"] = "no-referrer"
        headers["cross-origin-resource-policy"] = "same-origin"
        headers["content-security-policy"] = self._policy_of(path)
        headers.setdefault("cache-control", "no-store")

    def _policy_of(self, path: str) -> str:
        if path.startswith(files.PREFIX):
            return self._files_policy
        return self._docs_policy if path.startswith("/docs") else self._policy

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = _route(scope)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _request_id(scope: Scope) -> str:
    """The caller's own, if it is harmless, so that one id follows a request through every log."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex


def _route(scope: Scope) -> str:
    """The route's template: paths as sent would make a new time series each."""
    route: Any = scope.get("route")
    path = getattr(route, "path", None)
    if path:
        return str(path)
    return "static" if scope.get("root_path") or "path" in scope.get("path_params", {}) else "unmatched"
