"""Completes the OpenAPI document for all routes: the problem schema, API keys, and the responses of limits and keys."""

from typing import Any, Final

from fastapi import FastAPI

from serving.api import schemas
from serving.api.route_classes import GuardedRoute
from serving.inference.open_inference import InferRequest

_KEYS: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key; `evergreen keys create` makes one."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
}
_EXTRA_MODELS: Final = (schemas.Problem, InferRequest)
"""Models that are not the declared body or response of any route."""

_LIMITS: Final = schemas.problems(
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
    """Make the app's OpenAPI document include the shared schemas, security schemes and responses.

    Args:
        keyless: callers on the loopback interface need no key.
    """
    generate = app.openapi
    roles = {
        (route.path, method.lower()): route.role
        for route in app.routes
        if isinstance(route, GuardedRoute)
        for method in route.methods
    }

    def openapi() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        document = generate()
        components = document.setdefault("components", {})
        for model in _EXTRA_MODELS:
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            components.setdefault("schemas", {}).update({**schema.pop("$defs", {}), model.__name__: schema})
        components["securitySchemes"] = _KEYS
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                _complete(operation, roles.get((path, method)), keyless=keyless)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(operation: dict[str, Any], role: str | None, *, keyless: bool) -> None:
    body = operation.get("requestBody", {})
    extra = (_LIMITS if body else {}) | (_JSON if "application/json" in body.get("content", {}) else {})
    responses = operation["responses"]
    for status, response in (extra | (_GUARDED if role else {})).items():
        responses.setdefault(str(status), response)
    if "application/json" in responses.get("422", {}).get("content", {}):  # added by FastAPI
        responses["422"] = _INVALID[422]
    if role:
        operation["security"] = [{name: []} for name in _KEYS] + ([{}] if keyless else [])
        needs = f"Needs a key with the role `{role}`."
        operation["description"] = "\n\n".join(filter(None, (operation.get("description"), needs)))
