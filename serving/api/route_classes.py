"""Route classes: the role a route requires, and whether FastAPI's request handling is skipped.

A router sets the role of its routes: ``APIRouter(route_class=requires_role("predict"))``. The caller's name is then in
``request.state.caller``: the key's name, or None for a local program that requires_role no key.
"""

from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from fastapi import Request, Response
from fastapi.routing import APIRoute

from serving.api import timeouts
from serving.auth.access import BEARER, AccessControl, Role


class RawRoute(APIRoute):
    """A route whose endpoint takes only the request. FastAPI's handler would double the time spent per request."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
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
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return endpoint


class GuardedRoute(APIRoute):
    """A route that requires a role, checked before the body is read and parameters are parsed."""

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
