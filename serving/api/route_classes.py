"""Classes of routes: what a route needs of its caller, and whether FastAPI's own handler runs for it.

A router says what its routes need: ``APIRouter(route_class=needs("predict"))``. The caller's name is then in
``request.state.caller``: the key's, or None for a program on this machine that needs no key.
"""

from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from fastapi import Request, Response
from fastapi.routing import APIRoute

from serving.api import timeouts
from serving.auth.access import BEARER, AccessControl, Role


class RawRoute(APIRoute):
    """Of an endpoint that takes the request alone; FastAPI's own handler costs as much as all the rest of the way."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint itself.

        Raises:
            TypeError: it has dependencies or parameters, which would be passed over.
        """
        needed = self.dependant
        told = (needed.dependencies, needed.path_params, needed.query_params, needed.header_params)
        if any((*told, needed.cookie_params, needed.body_params)):
            raise TypeError(f"{self.path} is direct: it takes the request alone, without dependencies and parameters")
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return endpoint


class GuardedRoute(APIRoute):
    """A route that needs a role; asked before the body is read and before parameters are looked at."""

    role: ClassVar[Role]
    challenge: ClassVar[str]
    seconds: ClassVar[float | None]

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        role, challenge, seconds = self.role, self.challenge, self.seconds

        async def guarded(request: Request) -> Response:
            access: AccessControl = request.app.state.dependencies.access
            request.state.caller = access.authorize(request.scope, role, challenge)
            if seconds is not None:
                timeouts.allow(request.scope, seconds)
            return await handle(request)

        return guarded


def needs(
    role: Role, challenge: str = BEARER, seconds: float | None = None, *, direct: bool = False
) -> type[GuardedRoute]:
    """The route class of a router whose routes need the role.

    Args:
        role: what a caller's key must be for.
        challenge: how a refusal asks for a key; `BASIC` lets a browser ask the person before it.
        seconds: how long an answer may take where that is longer than `answer_seconds`.
        direct: call the endpoint at once; see `serving.api.raw_route`.
    """
    bases = (GuardedRoute, RawRoute) if direct else (GuardedRoute,)
    return type("GuardedRoute", bases, {"role": role, "challenge": challenge, "seconds": seconds})
