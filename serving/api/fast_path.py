"""The short way to the direct routes: from the edge to the endpoint, past the framework's layers between."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.api import problems
from serving.api.connection import buffered
from serving.api.route_classes import RawRoute

_Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


class FastPathMiddleware:
    """Innermost middleware. What is no direct route goes on; errors become the same problems as everywhere."""

    def __init__(self, app: ASGIApp, routes: dict[tuple[str, str], RawRoute]) -> None:
        self._app = app
        self._ways: dict[tuple[str, str], tuple[RawRoute, _Endpoint]] = {
            key: (route, route.get_route_handler()) for key, route in routes.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        way = self._ways.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if way is None:
            await self._app(scope, receive, send)
            return
        scope["route"], handle = way
        request = Request(scope, receive, send)
        try:
            response = await handle(request)
        except Exception as error:  # noqa: BLE001 - what is no problem of the request is raised again
            response = await problems.answer(request, error)
        with buffered(scope):
            await response(scope, receive, send)


def raw_routes(app: FastAPI) -> dict[tuple[str, str], RawRoute]:
    """By method and path."""
    found = [route for route in app.routes if isinstance(route, RawRoute)]
    return {(method, route.path): route for route in found for method in route.methods}
