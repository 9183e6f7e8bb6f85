"""Routes that are called at once: FastAPI describes them, and is out of their way."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute


class Direct(APIRoute):
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
