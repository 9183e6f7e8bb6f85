"""Errors on the wire: `application/problem+json` (RFC 9457), each with a code and the request's id."""

from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ml.errors import (
    ConflictError,
    EvergreenError,
    ImageRejectedError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from serving.errors import RETRY, ProblemError

OPEN_INFERENCE = "/v2"
MEDIA_TYPE = "application/problem+json"
_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "content_too_large"}


def response(
    request_id: str,
    path: str,
    status: int,
    code: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
    **more: object,
) -> Response:
    body = {
        "type": f"urn:evergreen:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": path,
        "code": code,
        "request_id": request_id,
    }
    if path.startswith(OPEN_INFERENCE):
        body["error"] = detail  # where that protocol's clients look
    # A path or a field may hold lone surrogates, which JSON cannot: they are replaced, not raised.
    data = orjson.dumps(_clean(body | more), default=str)
    return Response(data, status, dict(headers or {}), MEDIA_TYPE)


def of(
    request: Request, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None, **more: object
) -> Response:
    """The problem as this request's answer."""
    return response(request.scope.get("request_id", ""), request.url.path, status, code, detail, headers, **more)


def install(app: FastAPI) -> None:
    """Handlers for every kind of error an endpoint may raise; a kind not named here becomes a 500 at the edge."""
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)


async def answer(request: Request, error: Exception) -> Response:
    """As the app answers an error of an endpoint; raises it where it is none of the request's."""
    handler = next((_HANDLERS[kind] for kind in type(error).__mro__ if kind in _HANDLERS), None)
    if handler is None:
        raise error
    return await handler(request, error)


async def _problem(request: Request, error: Exception) -> Response:
    if not isinstance(error, ProblemError):
        raise error
    return of(request, error.status, error.code, str(error), error.headers)


async def _evergreen(request: Request, error: Exception) -> Response:
    if isinstance(error, ImageRejectedError):
        return of(request, 422, error.code, str(error))
    if isinstance(error, InvalidInputError):
        return of(request, 422, "invalid", str(error))
    if isinstance(error, NotFoundError):
        return of(request, 404, "not_found", str(error))
    if isinstance(error, ConflictError):
        return of(request, 409, "conflict", str(error))
    if isinstance(error, UnavailableError):
        # The words may name inner addresses: they belong in the log, not in the answer.
        return of(request, 503, "unavailable", "a part behind the service does not answer; try again", RETRY)
    raise error


async def _validation(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    errors = [{"where": ".".join(map(str, e["loc"])), "message": e["msg"]} for e in error.errors()[:20]]
    detail = "; ".join(f"`{e['where']}`: {e['message']}" for e in errors)
    return of(request, 422, "invalid", detail, errors=errors)


async def _http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    code = _CODES.get(error.status_code, "http")
    return of(request, error.status_code, code, str(error.detail), error.headers)


_HANDLERS: Final[dict[type[Exception], Callable[[Request, Exception], Coroutine[Any, Any, Response]]]] = {
    ProblemError: _problem,
    EvergreenError: _evergreen,
    RequestValidationError: _validation,
    HTTPException: _http,
}


def _clean(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {key: _clean(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_clean(inner) for inner in value]
    return value
