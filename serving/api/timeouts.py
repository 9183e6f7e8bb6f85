"""Limits on one request: the size of its body, the time to receive it, and the time to answer."""

import asyncio
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOO_SLOW: Final = (408, "too_slow")
NO_ANSWER: Final = (503, "no_answer")
_SCOPE_KEY: Final = "evergreen.limited_request"


class DeadlineError(Exception):
    """A deadline passed before the response started.

    Attributes:
        status, code: those of the problem response.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class RequestLimits:
    """The limits, the same for every request; each request has one timer.

    Args:
        max_bytes: of a body.
        body_seconds: from the request's head to the end of its body.
        answer_seconds: from the end of the body to the start of the response.
    """

    def __init__(self, max_bytes: int, body_seconds: float, answer_seconds: float) -> None:
        self.max_bytes, self.body_seconds, self.answer_seconds = max_bytes, body_seconds, answer_seconds

    async def call(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app and enforce the limits.

        Raises:
            DeadlineError: a deadline passed before the response started.
        """
        limited = scope[_SCOPE_KEY] = _LimitedRequest(self, receive, send)
        try:
            async with limited.timer:
                await app(scope, limited.receive, limited.send)
        except TimeoutError:
            if not limited.timer.expired():
                raise
            if limited.body_complete:
                message = f"the service found no answer within {limited.answer_seconds:g} s; try again"
                raise DeadlineError(*NO_ANSWER, message) from None
            raise DeadlineError(*TOO_SLOW, f"the body did not come within {self.body_seconds:g} s") from None


def extend_answer_timeout(scope: Scope, seconds: float) -> None:
    """Raise this request's answer timeout to `seconds`, for work that takes longer."""
    limited: _LimitedRequest | None = scope.get(_SCOPE_KEY)
    if limited is not None:
        limited.answer_seconds = max(seconds, limited.answer_seconds)


class _LimitedRequest:
    """One request in progress, with its timer.

    Attributes:
        answer_seconds: counted from the end of its body.
        body_complete: the whole body was received.
    """

    def __init__(self, limits: RequestLimits, receive: Receive, send: Send) -> None:
        self._limits, self._receive, self._send = limits, receive, send
        self._bytes = 0
        self.answer_seconds = limits.answer_seconds
        self.body_complete = False
        self._clock = asyncio.get_running_loop().time
        self.timer = asyncio.timeout_at(self._clock() + limits.body_seconds)

    async def receive(self) -> Message:
        """Raises HTTPException (413), which FastAPI passes on from where a body is read."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            if self._bytes > self._limits.max_bytes:
                raise HTTPException(413, f"the body is larger than {self._limits.max_bytes} bytes")
            if not message.get("more_body", False) and not self.body_complete:
                self.body_complete = True
                self.timer.reschedule(self._clock() + self.answer_seconds)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.timer.reschedule(None)
        await self._send(message)
