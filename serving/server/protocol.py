"""uvicorn's HTTP protocol, aware of the other workers and with two habits changed that cost each request system calls.

uvicorn writes the head of an answer and its body apart, and the event loop sends each at once by a call of its own.
And it stops reading where a body passes 64 KiB, which many a photo does, though the app wants all of it.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Final

from starlette.types import Scope
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.api import connection
from serving.server.balance import ConnectionBalancer

_READ_AHEAD: Final = 1 << 20

httptools_impl.HIGH_WATER_LIMIT = _READ_AHEAD  # type: ignore[attr-defined]  # no setting of uvicorn


class Protocol(HttpToolsProtocol):
    """For `uvicorn.Config(http=…)`."""

    balance: ClassVar[ConnectionBalancer | None] = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(BufferedTransport(transport))  # type: ignore[arg-type]
        if self.balance:
            self.balance.update(len(self.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.scope:
            self.scope.pop(connection.KEY, None)  # type: ignore[typeddict-item]  # a circle, which the collector would have to find
        if self.balance:
            self.balance.update(len(self.connections))

    def shutdown(self) -> None:
        if self.balance:
            self.balance.leave()
        super().shutdown()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[connection.KEY] = self  # type: ignore[typeddict-unknown-key]

    def close_if_over_share(self, scope: Scope) -> None:
        """Not while the body is still on its way: closing then resets the connection, and the answer may be lost."""
        cycle = self.cycle
        if self.balance is None or cycle.scope is not scope or cycle.more_body:
            return
        if self.balance.should_close(self.loop.time(), len(self.connections)):
            cycle.keep_alive = False

    @contextmanager
    def buffered(self) -> Iterator[None]:
        transport: Any = self.transport
        transport.hold()
        try:
            yield
        finally:
            transport.release()


def balanced(balance: ConnectionBalancer) -> type[Protocol]:
    """The protocol of a worker that keeps to its share of connections."""
    return type("BalancedProtocol", (Protocol,), {"balance": balance})


class BufferedTransport:
    """A transport that can be told to hold what is written and to send it in one piece."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._held: list[bytes] | None = None
        self.is_closing = transport.is_closing

    def hold(self) -> None:
        self._held = []

    def release(self) -> None:
        held, self._held = self._held, None
        if held:
            self._transport.write(b"".join(held))

    def write(self, data: bytes) -> None:
        if self._held is None:
            self._transport.write(data)
        else:
            self._held.append(data)

    def close(self) -> None:
        self.release()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
