"""Operations on a request's connection, where the server is that of `serving.server.protocol`."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Protocol

from starlette.types import Scope

KEY: Final = "evergreen.connection"
"""Key of the connection in a request's ASGI scope."""


class Connection(Protocol):
    """One client's connection, while one of its requests is handled."""

    def close_if_over_share(self, scope: Scope) -> None:
        """Close the connection after this response if the worker has more than its share of connections."""

    def buffered(self) -> AbstractContextManager[None]:
        """Send everything written within the block in one piece at its end."""


def close_if_over_share(scope: Scope) -> None:
    """As `Connection.close_if_over_share`; a no-op under another server."""
    connection: Connection | None = scope.get(KEY)
    if connection is not None:
        connection.close_if_over_share(scope)


@contextmanager
def buffered(scope: Scope) -> Iterator[None]:
    """As `Connection.buffered`; a no-op under another server."""
    connection: Connection | None = scope.get(KEY)
    if connection is None:
        yield
        return
    with connection.buffered():
        yield
