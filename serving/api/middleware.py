"""Middleware for every request: request id, limits, security headers, metrics, and problem responses for errors."""

import logging
import re
import time
import uuid
from typing import Any, Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api import problems
from serving.api.connection import close_if_over_share
from serving.api.timeouts import DeadlineError, RequestLimits
from serving.auth.access import RATE_HEADERS
from serving.errors import RETRY
from serving.telemetry.logs import AccessLog, with_fields
from serving.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

FILES_PREFIX: Final = "/console/files/"
FILES_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; sandbox"
)
"""Reports have inline styles and no scripts."""
_VALID_ID: Final = re.compile(r"[\w.:-]{1,100}", re.ASCII)
_CLOSED_EARLY: Final = 499

_Headers = tuple[tuple[bytes, bytes], ...]


class RequestMiddleware:
    """Outermost middleware, plain ASGI: no task and no queue between it and the endpoint.

    Args:
        app: the wrapped ASGI app.
        limits: the body's size is checked against `Content-Length`, and again while the body is read.
        frame_ancestors: origins that may show the console in a frame.
    """

    def __init__(
        self, app: ASGIApp, limits: RequestLimits, metrics: Metrics, access_log: AccessLog, frame_ancestors: str
    ) -> None:
        self._app, self._limits, self._metrics, self._access_log = app, limits, metrics, access_log
        policy = (
            "default-src 'none'; script-src 'self'{inline}; style-src 'self'{inline}; img-src 'self' data: blob:; "
            f"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self' {frame_ancestors}"
        )
        self._headers = _security_headers(policy.format(inline="").strip())
        self._files_headers = _security_headers(f"{FILES_POLICY}; frame-ancestors 'self' {frame_ancestors}".strip())
        # Swagger UI's page starts itself with an inline script.
        self._docs_headers = _security_headers(policy.format(inline=" 'unsafe-inline'").strip())

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
                close_if_over_share(scope)
                self._add_headers(message, scope, request_id)
            await send(message)

        try:
            await self._call_app(scope, receive, send_with_headers)
        except ClientDisconnect:
            status = _CLOSED_EARLY
        except DeadlineError as error:
            extra_headers = RETRY if error.status == 503 else {"connection": "close"}
            response = problems.response(request_id, scope["path"], error.status, error.code, str(error), extra_headers)
            await response(scope, receive, send_with_headers)
        except Exception:
            values = (request_id, scope["method"], scope["path"])
            log.exception("request %s: %s %s failed", *values, extra=with_fields(request_id=request_id))
            if status:
                raise
            detail = f"an error of the service itself; its log has it under request id {request_id}"
            response = problems.response(request_id, scope["path"], 500, "internal", detail)
            await response(scope, receive, send_with_headers)
        finally:
            self._count(scope, status, time.perf_counter() - started)

    async def _call_app(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = _header(scope, b"content-length") or b"0"
        if length.isdigit() and (len(length) > 18 or int(length) > self._limits.max_bytes):
            detail = f"the body is {length[:30].decode()} bytes, at most {self._limits.max_bytes} are accepted"
            response = problems.response(scope["request_id"], scope["path"], 413, "content_too_large", detail)
            await response(scope, receive, send)
            return
        await self._limits.call(self._app, scope, receive, send)

    def _add_headers(self, message: Message, scope: Scope, request_id: str) -> None:
        """Appends to the raw header list: looking up each header first would cost more than everything else here."""
        headers = [*message.get("headers", ()), *self._headers_of(scope["path"])]
        headers.append((b"x-request-id", request_id.encode("latin-1")))
        headers.extend(scope.get(RATE_HEADERS, ()))
        if not any(name == b"cache-control" for name, _ in headers):
            headers.append((b"cache-control", b"no-store"))
        if scope.get("scheme") == "https":
            headers.append((b"strict-transport-security", b"max-age=31536000"))
        message["headers"] = headers

    def _headers_of(self, path: str) -> _Headers:
        if path.startswith(FILES_PREFIX):
            return self._files_headers
        return self._docs_headers if path.startswith("/docs") else self._headers

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = _route(scope)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        caller = scope.get("state", {}).get("caller")
        self._access_log.record(
            status, seconds, request_id=scope["request_id"], method=method, route=route, caller=caller
        )


def _security_headers(policy: str) -> _Headers:
    return (
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
        (b"content-security-policy", policy.encode("latin-1")),
    )


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _request_id(scope: Scope) -> str:
    """The caller's `X-Request-ID` if it is well-formed, so that one id identifies the request in every log."""
    sent = (_header(scope, b"x-request-id") or b"").decode("latin-1")
    return sent if _VALID_ID.fullmatch(sent) else uuid.uuid4().hex


def _route(scope: Scope) -> str:
    """The route's template: raw paths would create a time series each."""
    route: Any = scope.get("route")
    path = getattr(route, "path", None)
    if path:
        return str(path)
    return "static" if scope.get("root_path") or "path" in scope.get("path_params", {}) else "unmatched"
