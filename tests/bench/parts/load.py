"""Questions to a running service from so many connections at once, each sent when the last one is answered."""

import asyncio
import itertools
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

_PAUSE: Final = 0.02
_HEAD: Final = b"POST /v1/predict HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: image/jpeg\r\ncontent-length: %d\r\n\r\n"


@dataclass(frozen=True)
class Answered:
    """Times by `time.time`, in seconds."""

    sent: float
    received: float
    id: str


@dataclass
class Load:
    """Keeps what came back.

    Attributes:
        failures: status and time of other answers; 0 for a connection that broke.
    """

    port: int
    images: Sequence[bytes]
    answers: list[Answered] = field(default_factory=list)
    failures: list[tuple[int, float]] = field(default_factory=list)

    @contextmanager
    def running(self, connections: int) -> Iterator["Load"]:
        stop, numbers = threading.Event(), itertools.count()

        async def all_of_them() -> None:
            await asyncio.gather(*(self._ask(stop, numbers) for _ in range(connections)))

        thread = threading.Thread(target=lambda: asyncio.run(all_of_them()))
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join(60)

    def between(self, start: float, end: float) -> list[float]:
        """Milliseconds of the answers to what was sent in this time, ascending."""
        return sorted((a.received - a.sent) * 1000 for a in self.answers if start <= a.sent < end)

    async def _ask(self, stop: threading.Event, numbers: Iterator[int]) -> None:
        reader, writer = None, None
        while not stop.is_set():
            started = time.time()
            try:
                if reader is None or writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                number = next(numbers)
                # What follows a JPEG's end is not read: another image each time, as far as the log is concerned.
                body = self.images[number % len(self.images)] + number.to_bytes(8, "big")
                writer.write(_HEAD % len(body) + body)
                status, answer, closing = await _answer(reader)
                if closing:
                    writer.close()
                    reader = writer = None
            except (OSError, asyncio.IncompleteReadError):
                self.failures.append((0, started))
                if writer:
                    writer.close()
                reader = writer = None
                await asyncio.sleep(_PAUSE)
                continue
            if status == 200:
                self.answers.append(Answered(started, time.time(), json.loads(answer)["id"]))
            else:
                self.failures.append((status, started))
                await asyncio.sleep(_PAUSE)


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Status, body, and whether the connection ends here."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length:")[2].partition("\r\n")[0])
    return int(head.split(" ", 2)[1]), await reader.readexactly(length), "connection: close" in head


def share(values: Sequence[float], portion: float) -> float:
    """The value below which this portion of ascending values lies."""
    return values[min(len(values) - 1, int(portion * len(values)))]
