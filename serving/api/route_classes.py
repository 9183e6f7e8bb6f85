"""Route classes: the role a route requires, and whether FastAPI's request handling is skipped.

`FastPathMiddleware` calls the endpoints of raw routes directly, without FastAPI's router and inner middleware.

A router sets the role of its routes: ``APIRouter(route_class=requires_role("predict"))``. The caller's name is then in
``request.state.caller``: the key's name, or None for a local program that requires_role no key.
"""

from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.api import problems, timeouts
from serving.api.connection import buffered
from serving.auth.access import BEARER, AccessControl, Role

_Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


class RawRoute(APIRoute):
    """A route whose endpoint takes only the request. FastAPI's handler would double the time spent per request."""

    def get_route_handler(self) -> _Endpoint:
        """The endpoint itself.

        Raises:
            TypeError: it has dependencies or parameters, which would be ignored.
        """
        declared = self.dependant
        params = (declared.dependencies, declared.path_params, declared.query_params, declared.header_params)
        if any((*params, declared.cookie_params, declared.body_params)):
            raise TypeError(
                f"{self.path} is a raw route: its endpoint must take only the request, no dependencies or parameters"
            )
        endpoint: _Endpoint = self.endpoint
        return endpoint


class GuardedRoute(APIRoute):
    """A route that requires a role, checked before the body is read and parameters are parsed."""

    role: ClassVar[Role]
    challenge: ClassVar[str]
    seconds: ClassVar[float | None]

    def get_route_handler(self) -> _Endpoint:
        handle = super().get_route_handler()
        role, challenge, seconds = self.role, self.challenge, self.seconds

        async def guarded(request: Request) -> Response:
            access: AccessControl = request.app.state.dependencies.access
            request.state.caller = access.authorize(request.scope, role, challenge)
            if seconds is not None:
                timeouts.extend_answer_timeout(request.scope, seconds)
            return await handle(request)

        return guarded


def requires_role(
    role: Role, challenge: str = BEARER, seconds: float | None = None, *, raw: bool = False
) -> type[GuardedRoute]:
    """The route class of a router whose routes require the role.

    Args:
        role: the role that the caller's key must have.
        challenge: `WWW-Authenticate` of a 401 response; `BASIC` makes a browser show its login dialog.
        seconds: answer timeout, where it must be longer than the setting `answer_seconds`.
        raw: use `RawRoute`.
    """
    bases = (GuardedRoute, RawRoute) if raw else (GuardedRoute,)
    return type("GuardedRoute", bases, {"role": role, "challenge": challenge, "seconds": seconds})


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
