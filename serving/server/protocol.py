"""uvicorn's HTTP protocol with connection balancing, and with one system call to send a response.

uvicorn writes the head and the body of a response separately, and the event loop sends each by its own system call.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.api import connection
from serving.server.balance import ConnectionBalancer


class Protocol(HttpToolsProtocol):
    """The protocol class for `uvicorn.Config(http=…)`."""

    balancer: ClassVar[ConnectionBalancer | None] = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(BufferedTransport(transport))  # type: ignore[arg-type]
        if self.balancer:
            self.balancer.update(len(self.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.scope:
            self.scope.pop(connection.KEY, None)  # type: ignore[typeddict-item]  # a reference cycle, which the garbage collector would have to break
        if self.balancer:
            self.balancer.update(len(self.connections))

    def shutdown(self) -> None:
        if self.balancer:
            self.balancer.withdraw()
        super().shutdown()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[connection.KEY] = self  # type: ignore[typeddict-unknown-key]

    def close_if_over_share(self, scope: Scope) -> None:
        """Not while the body is being received: closing then resets the connection, and the response may be lost."""
        cycle = self.cycle
        if self.balancer is None or cycle.scope is not scope or cycle.more_body:
            return
        if self.balancer.should_close(self.loop.time(), len(self.connections)):
            cycle.keep_alive = False

    @contextmanager
    def buffered(self) -> Iterator[None]:
        transport: Any = self.transport
        transport.hold()
        try:
            yield
        finally:
            transport.release()


def balanced_protocol(balancer: ConnectionBalancer) -> type[Protocol]:
    """The protocol class of a worker with this balancer."""
    return type("BalancedProtocol", (Protocol,), {"balancer": balancer})


class BufferedTransport:
    """A transport that can hold back what is written and send it in one piece."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._pending: list[bytes] | None = None
        self.is_closing = transport.is_closing

    def hold(self) -> None:
        self._pending = []

    def release(self) -> None:
        pending, self._pending = self._pending, None
        if pending:
            self._transport.write(b"".join(pending))

    def write(self, data: bytes) -> None:
        if self._pending is None:
            self._transport.write(data)
        else:
            self._pending.append(data)

    def close(self) -> None:
        self.release()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
