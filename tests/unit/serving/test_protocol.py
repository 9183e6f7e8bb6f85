"""The HTTP protocol: answers leave in one piece where that was asked for, and everything else as ever."""

import asyncio
from typing import Any

import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import ServerState

from serving.api.connection import buffered, close_if_over_share
from serving.server.balance import ConnectionBalancer, ConnectionCounts
from serving.server.protocol import Protocol, balanced_protocol


class Wire(asyncio.Transport):
    """What a connection sends, write by write."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.sent: list[bytes] = []
        self.closed = self.paused = False

    def write(self, data: Any) -> None:
        self.sent.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        pass


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers how long the body was; in one piece where the path says so."""
    length, more = 0, scope["path"] != "/hasty"
    while more:
        message = await receive()
        length, more = length + len(message["body"]), message["more_body"]
    response = Response(str(length))
    close_if_over_share(scope)
    if scope["path"] == "/whole":
        with buffered(scope):
            await response(scope, receive, send)
    else:
        await response(scope, receive, send)


def asked(*requests: bytes, kind: type[Protocol] = Protocol) -> Wire:
    async def story() -> Wire:
        config, wire = Config(echo, http=kind, lifespan="off"), Wire()
        config.load()
        protocol = kind(config, ServerState(), {})
        protocol.connection_made(wire)
        for request in requests:
            protocol.data_received(request)
            await asyncio.sleep(0.01)
        while not protocol.cycle.response_complete:
            await asyncio.sleep(0.001)
        return wire

    return asyncio.run(story())


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: here", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def test_an_answer_is_one_write_where_it_was_asked_for() -> None:
    (whole,) = asked(post("/whole", b"abc")).sent
    assert whole.startswith(b"HTTP/1.1 200 OK\r\n")
    assert whole.endswith(b"\r\n\r\n3")
    head, body = asked(post("/plain", b"abc")).sent
    assert (head + body).endswith(b"\r\n\r\n3")


def test_one_connection_asks_again_and_again() -> None:
    sent = asked(post("/whole", b"a"), post("/plain", b"ab"), post("/whole", b"abc")).sent
    assert [s[-1:] for s in sent] == [b"1", b"\n", b"2", b"3"]


def test_requests_that_come_together_are_answered_in_order() -> None:
    sent = asked(post("/whole", b"a") + post("/whole", b"ab")).sent
    assert [s[-1:] for s in sent] == [b"1", b"2"]


def test_the_answer_is_out_before_the_connection_is_closed() -> None:
    wire = asked(post("/whole", b"abc", "connection: close"))
    assert wire.closed
    assert wire.sent[0].endswith(b"\r\n\r\n3")


def test_who_waits_for_a_sign_to_send_the_body_gets_it() -> None:
    head, _, body = post("/whole", b"abc", "expect: 100-continue").partition(b"\r\n\r\n")
    sent = asked(head + b"\r\n\r\n", body).sent
    assert sent[0] == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert sent[1].endswith(b"\r\n\r\n3")


@pytest.fixture
def one_too_many() -> tuple[ConnectionCounts, type[Protocol]]:
    """A worker that has one connection more than its share."""
    seats = ConnectionCounts()
    balance = ConnectionBalancer(seats.counts, 0)
    balance._to_close, balance._update_at = 1, float("inf")
    return seats, balanced_protocol(balance)


def test_a_connection_too_many_ends_with_its_answer(one_too_many: tuple[ConnectionCounts, type[Protocol]]) -> None:
    seats, kind = one_too_many
    wire = asked(post("/whole", b"abc"), kind=kind)
    assert wire.closed
    assert b"\r\nconnection: close\r\n" in wire.sent[0]
    assert wire.sent[0].endswith(b"\r\n\r\n3")
    assert seats.counts[0] == 1


def test_an_answer_before_the_body_came_is_not_the_last(one_too_many: tuple[ConnectionCounts, type[Protocol]]) -> None:
    head, _, body = post("/hasty", b"abc").partition(b"\r\n\r\n")
    wire = asked(head + b"\r\n\r\n", body, kind=one_too_many[1])
    assert not wire.closed
    assert b"connection: close" not in b"".join(wire.sent)
