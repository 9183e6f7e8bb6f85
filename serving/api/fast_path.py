"""Fast path for raw routes: calls the endpoint directly, skipping FastAPI's router and inner middleware."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.api import problems
from serving.api.connection import buffered
from serving.api.route_classes import RawRoute

_Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


class FastPathMiddleware:
    """Innermost middleware. Other routes are passed on to the app; errors become the usual problem responses."""

    def __init__(self, app: ASGIApp, routes: dict[tuple[str, str], RawRoute]) -> None:
        self._app = app
        self._handlers: dict[tuple[str, str], tuple[RawRoute, _Endpoint]] = {
            key: (route, route.get_route_handler()) for key, route in routes.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self._handlers.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if handler is None:
            await self._app(scope, receive, send)
            return
        scope["route"], endpoint = handler
        request = Request(scope, receive, send)
        try:
            response = await endpoint(request)
        except Exception as error:  # noqa: BLE001 - unhandled errors are raised again
            response = await problems.handle_error(request, error)
        with buffered(scope):
            await response(scope, receive, send)


def raw_routes(app: FastAPI) -> dict[tuple[str, str], RawRoute]:
    """The app's raw routes by method and path."""
    routes = [route for route in app.routes if isinstance(route, RawRoute)]
    return {(method, route.path): route for route in routes for method in route.methods}
