"""What a request may ask of the connection that it came by, where the server is `serving.server.protocol`'s."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Protocol

from starlette.types import Scope

KEY: Final = "evergreen.connection"
"""Where in a request's scope its connection stands."""


class Connection(Protocol):
    """One client's connection, while one of its requests is handled."""

    def close_if_over_share(self, scope: Scope) -> None:
        """Make this request's answer the last of the connection, if the worker has more than its share of them."""

    def buffered(self) -> AbstractContextManager[None]:
        """What is sent in the block leaves in one piece at its end."""


def close_if_over_share(scope: Scope) -> None:
    """As `Connection.close_if_over_share`; nothing happens under another server."""
    connection: Connection | None = scope.get(KEY)
    if connection is not None:
        connection.close_if_over_share(scope)


@contextmanager
def buffered(scope: Scope) -> Iterator[None]:
    """As `Connection.buffered`; nothing happens under another server."""
    connection: Connection | None = scope.get(KEY)
    if connection is None:
        yield
        return
    with connection.buffered():
        yield
