"""What OpenAPI says of all routes alike: the problem's schema, keys, and what bounds and keys answer."""

from typing import Any, Final

from fastapi import FastAPI

from serving.api import schemas
from serving.api.route_classes import GuardedRoute
from serving.inference.open_inference import InferRequest

_KEYS: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key; `evergreen keys create` makes one."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
}
_BESIDE: Final = (schemas.Problem, InferRequest)
"""Models that no route takes or returns as such."""

_BOUNDS: Final = schemas.problems(
    _408="The body did not come in time.", _413="The body is too large.", _503="No answer in time; see `Retry-After`."
)
_JSON: Final = schemas.problems(_400="The body is no JSON.")
_INVALID: Final = schemas.problems(_422="A parameter does not fit.")
_GUARDED: Final = schemas.problems(
    _401="No key, or none of ours: see `WWW-Authenticate`.",
    _403="The key is for other things.",
    _429="This key asked too often: see `Retry-After` and `RateLimit`.",
)


def complete(app: FastAPI, *, keyless: bool) -> None:
    """Let the app's document say it too.

    Args:
        keyless: some callers need no key.
    """
    make = app.openapi
    roles = {
        (route.path, method.lower()): route.role
        for route in app.routes
        if isinstance(route, GuardedRoute)
        for method in route.methods
    }

    def completed() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        document = make()
        components = document.setdefault("components", {})
        for model in _BESIDE:
            told = model.model_json_schema(ref_template="#/components/schemas/{model}")
            components.setdefault("schemas", {}).update({**told.pop("$defs", {}), model.__name__: told})
        components["securitySchemes"] = _KEYS
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                _complete(operation, roles.get((path, method)), keyless=keyless)
        return document

    app.openapi = completed  # type: ignore[method-assign]


def _complete(operation: dict[str, Any], role: str | None, *, keyless: bool) -> None:
    body = operation.get("requestBody", {})
    more = (_BOUNDS if body else {}) | (_JSON if "application/json" in body.get("content", {}) else {})
    responses = operation["responses"]
    for status, told in (more | (_GUARDED if role else {})).items():
        responses.setdefault(str(status), told)
    if "application/json" in responses.get("422", {}).get("content", {}):  # what FastAPI adds by itself
        responses["422"] = _INVALID[422]
    if role:
        operation["security"] = [{name: []} for name in _KEYS] + ([{}] if keyless else [])
        needs = f"Needs a key with the role `{role}`."
        operation["description"] = "\n\n".join(filter(None, (operation.get("description"), needs)))
