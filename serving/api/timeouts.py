"""Bounds on one request: how large its body may be, how long it may take to come, how long the answer may."""

import asyncio
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOO_SLOW: Final = (408, "too_slow")
NO_ANSWER: Final = (503, "no_answer")
_PASSAGE: Final = "evergreen.passage"


class LateError(Exception):
    """A deadline passed before an answer began.

    Attributes:
        status, code: what the caller is told.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Bounds:
    """The bounds, the same for every request; one timer each.

    Args:
        max_bytes: of a body.
        body_seconds: from the request's head to the end of its body.
        answer_seconds: from there to the beginning of the answer.
    """

    def __init__(self, max_bytes: int, body_seconds: float, answer_seconds: float) -> None:
        self.max_bytes, self.body_seconds, self.answer_seconds = max_bytes, body_seconds, answer_seconds

    async def call(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the app answer within the bounds.

        Raises:
            LateError: a deadline passed, and nothing was sent.
        """
        passage = scope[_PASSAGE] = _Passage(self, receive, send)
        try:
            async with passage.timer:
                await app(scope, passage.receive, passage.send)
        except TimeoutError:
            if not passage.timer.expired():
                raise
            if passage.whole:
                told = f"the service found no answer within {passage.answer_seconds:g} s; try again"
                raise LateError(*NO_ANSWER, told) from None
            raise LateError(*TOO_SLOW, f"the body did not come within {self.body_seconds:g} s") from None


def allow(scope: Scope, seconds: float) -> None:
    """Give this request's answer so long, because what it asks for takes long."""
    passage: _Passage | None = scope.get(_PASSAGE)
    if passage is not None:
        passage.answer_seconds = max(seconds, passage.answer_seconds)


class _Passage:
    """One request on its way.

    Attributes:
        answer_seconds: counted from the end of its body.
        whole: the body has come to its end.
    """

    def __init__(self, bounds: Bounds, receive: Receive, send: Send) -> None:
        self._bounds, self._receive, self._send = bounds, receive, send
        self._bytes = 0
        self.answer_seconds = bounds.answer_seconds
        self.whole = False
        self._clock = asyncio.get_running_loop().time
        self.timer = asyncio.timeout_at(self._clock() + bounds.body_seconds)

    async def receive(self) -> Message:
        """Raises HTTPException (413): the error that FastAPI passes on from where a body is read."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            if self._bytes > self._bounds.max_bytes:
                raise HTTPException(413, f"the body is larger than {self._bounds.max_bytes} bytes")
            if not message.get("more_body", False) and not self.whole:
                self.whole = True
                self.timer.reschedule(self._clock() + self.answer_seconds)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.timer.reschedule(None)
        await self._send(message)
