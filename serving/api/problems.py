"""Error responses: `application/problem+json` (RFC 9457), each with a code and the request's id."""

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
    **members: object,
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
        body["error"] = detail  # where clients of the Open Inference Protocol look
    # A path or a field may hold lone surrogates, which JSON cannot encode: they are replaced.
    data = orjson.dumps(_clean(body | members), default=str)
    return Response(data, status, dict(headers or {}), MEDIA_TYPE)


def problem_for(
    request: Request, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None, **members: object
) -> Response:
    """The problem as a response to this request."""
    return response(request.scope.get("request_id", ""), request.url.path, status, code, detail, headers, **members)


def install(app: FastAPI) -> None:
    """Register a handler for each type of error that an endpoint may raise; others become a 500 in the middleware."""
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)


async def handle_error(request: Request, error: Exception) -> Response:
    """The response to an endpoint's error, as the app's handlers give it; raises an error that has no handler."""
    handler = next((_HANDLERS[kind] for kind in type(error).__mro__ if kind in _HANDLERS), None)
    if handler is None:
        raise error
    return await handler(request, error)


async def _problem(request: Request, error: Exception) -> Response:
    if not isinstance(error, ProblemError):
        raise error
    return problem_for(request, error.status, error.code, str(error), error.headers)


async def _evergreen(request: Request, error: Exception) -> Response:
    if isinstance(error, ImageRejectedError):
        return problem_for(request, 422, error.code, str(error))
    if isinstance(error, InvalidInputError):
        return problem_for(request, 422, "invalid", str(error))
    if isinstance(error, NotFoundError):
        return problem_for(request, 404, "not_found", str(error))
    if isinstance(error, ConflictError):
        return problem_for(request, 409, "conflict", str(error))
    if isinstance(error, UnavailableError):
        # The message may contain internal addresses: it belongs in the log, not in the response.
        return problem_for(request, 503, "unavailable", "a part behind the service does not answer; try again", RETRY)
    raise error


async def _validation(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    errors = [{"where": ".".join(map(str, e["loc"])), "message": e["msg"]} for e in error.errors()[:20]]
    detail = "; ".join(f"`{e['where']}`: {e['message']}" for e in errors)
    return problem_for(request, 422, "invalid", detail, errors=errors)


async def _http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    code = _CODES.get(error.status_code, "http")
    return problem_for(request, error.status_code, code, str(error.detail), error.headers)


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
