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

from serving.balance import Balance

_KEY: Final = "evergreen.protocol"
_READ_AHEAD: Final = 1 << 20

httptools_impl.HIGH_WATER_LIMIT = _READ_AHEAD  # type: ignore[attr-defined]  # no setting of uvicorn


class Protocol(HttpToolsProtocol):
    """For `uvicorn.Config(http=…)`."""

    balance: ClassVar[Balance | None] = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Joint(transport))  # type: ignore[arg-type]
        if self.balance:
            self.balance.note(len(self.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.scope:
            self.scope.pop(_KEY, None)  # type: ignore[typeddict-item]  # a circle, which the collector would have to find
        if self.balance:
            self.balance.note(len(self.connections))

    def shutdown(self) -> None:
        if self.balance:
            self.balance.leave()
        super().shutdown()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[_KEY] = self  # type: ignore[typeddict-unknown-key]


def part_if_too_many(scope: Scope) -> None:
    """Before the head of this request's answer is sent: is it the last of its connection, where the server is ours?

    Not while the body is still on its way: closing then resets the connection, and the answer may be lost with it.
    """
    protocol: Protocol | None = scope.get(_KEY)
    if protocol is None or protocol.balance is None:
        return
    cycle = protocol.cycle
    if cycle.scope is not scope or cycle.more_body:
        return
    if protocol.balance.lets_go(protocol.loop.time(), len(protocol.connections)):
        cycle.keep_alive = False


def balanced(balance: Balance) -> type[Protocol]:
    """The protocol of a worker that keeps to its share of connections."""
    return type("BalancedProtocol", (Protocol,), {"balance": balance})


class Joint:
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


@contextmanager
def one_piece(scope: Scope) -> Iterator[None]:
    """A whole answer is sent in the block: it goes out together, where the server is ours."""
    protocol: Protocol | None = scope.get(_KEY)
    if protocol is None:
        yield
        return
    joint: Any = protocol.transport
    joint.hold()
    try:
        yield
    finally:
        joint.release()
