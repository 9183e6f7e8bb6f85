"""Load on a service: wrk where it is installed, else a small generator of our own, which takes more of the cores."""

import asyncio
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tests.bench.report import percentile

BOUNDARY: Final = "evergreen-bench"
_NUMBER: Final = 12
"""Digits behind each image: decoders stop before them, and to the log it is another image."""
_SCRIPT: Final = Path(__file__).with_name("ask.lua")
_first = itertools.count(1, 10_000_000)


@dataclass(frozen=True)
class Heard:
    """What came back: `p50` and `p99` in milliseconds, of answers alone or, by wrk, of refusals too."""

    answers: int
    seconds: float
    p50: float
    p99: float
    refused: int
    broken: int

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds


@dataclass(frozen=True)
class Request:
    """Raw HTTP in chunks, between which a running number goes."""

    chunks: tuple[bytes, ...]
    files: list[Path] = field(default_factory=list)


def form(path: str, images: Sequence[bytes], header: str = "") -> Request:
    """A multipart request with these images as parts `file`."""
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="photo.jpg"\r\n'
    part += "Content-Type: image/jpeg\r\n\r\n"
    chunks = [part.encode() + images[0]]
    chunks += [b"\r\n" + part.encode() + image for image in images[1:]]
    chunks.append(f"\r\n--{BOUNDARY}--\r\n".encode())
    length = sum(map(len, chunks)) + _NUMBER * len(images)
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
    head += f"{header}Content-Length: {length}\r\n\r\n"
    return Request((head.encode() + chunks[0], *chunks[1:]))


def ask(url: str, requests: Sequence[Request], connections: int, seconds: float, folder: Path) -> Heard:
    """Ask for so long; each connection sends its next request when the last is answered."""
    if shutil.which("wrk") is None:
        return ask_here(url, requests, connections, seconds)
    for request in requests:
        if not request.files:
            request.files.extend(folder / f"{id(request)}-{n}" for n in range(len(request.chunks)))
            for path, chunk in zip(request.files, request.chunks, strict=True):
                path.write_bytes(chunk)
    lists = ":".join(",".join(map(str, request.files)) for request in requests)
    command = ["wrk", "-s", str(_SCRIPT), "-t1", f"-c{connections}", f"-d{round(seconds)}s", "--timeout", "30s", url]
    variables = {"REQUESTS": lists, "FIRST": str(next(_first))}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | variables)
    return Heard(**json.loads(done.stdout.partition("JSON ")[2]))


def ask_here(url: str, requests: Sequence[Request], connections: int, seconds: float) -> Heard:
    """The same without wrk; who is refused waits a little, as `Retry-After` asks, though not as long."""
    return asyncio.run(_ask(url, requests, connections, seconds))


async def _ask(url: str, requests: Sequence[Request], connections: int, seconds: float) -> Heard:
    port, numbers = urlsplit(url).port, itertools.count(next(_first))
    times: list[float] = []
    refused = broken = 0
    begun = time.perf_counter()

    async def one() -> None:
        nonlocal refused, broken
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (sent := time.perf_counter()) < begun + seconds:
            number = next(numbers)
            writer.write((b"%012d" % number).join(requests[number % len(requests)].chunks))
            try:
                status, closing = await _status(reader)
            except (OSError, asyncio.IncompleteReadError):
                broken += 1
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                continue
            if status == 200:
                times.append(1000 * (time.perf_counter() - sent))
            else:
                refused += 1
                await asyncio.sleep(0.2)
            if closing:
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    times.sort()
    taken = time.perf_counter() - begun
    return Heard(len(times), taken, percentile(times, 50), percentile(times, 99), refused, broken)


async def _status(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """And whether the connection ends here."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    await reader.readexactly(int(head.partition("content-length:")[2].partition("\r\n")[0]))
    return int(head.split(" ", 2)[1]), "connection: close" in head
