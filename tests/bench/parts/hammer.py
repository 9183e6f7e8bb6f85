"""A load generator that keeps every answer: closed loop over kept-alive connections; a process of its own.

It shares no interpreter with what it measures. Prints how many answers it has,
each thousand; writes one line of JSON an answer: start and end by the monotonic clock in seconds, image, status, body.
"""

import asyncio
import sys
import time
from pathlib import Path

import orjson

EVERY = 1000


class Load:
    """`total` requests from whoever is free, images in turn."""

    def __init__(self, images: list[bytes], total: int) -> None:
        head = "POST /v1/predict HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: image/png\r\ncontent-length: {}\r\n\r\n"
        self.requests = [head.format(len(image)).encode() + image for image in images]
        self.total, self.sent, self.answers = total, 0, list[bytes]()

    def next(self) -> int | None:
        if self.sent == self.total:
            return None
        self.sent += 1
        return self.sent % len(self.requests)

    def note(self, started: float, image: int, status: int, body: bytes) -> None:
        ended = time.monotonic()
        self.answers.append(orjson.dumps([started, ended, image, status, body.decode("utf-8", "replace")]))
        if len(self.answers) % EVERY == 0:
            sys.stdout.write(f"{len(self.answers)}\n")
            sys.stdout.flush()


async def swing(load: Load, host: str, port: int) -> None:
    """One connection; a new one where it was cut, which is noted as a failure."""
    reader, writer = await asyncio.open_connection(host, port)
    while (image := load.next()) is not None:
        started = time.monotonic()
        try:
            writer.write(load.requests[image])
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            load.note(started, image, int(head[9:12]), await reader.readexactly(length))
            if b"connection: close" in head.lower():
                writer.close()
                reader, writer = await asyncio.open_connection(host, port)
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            load.note(started, image, 0, repr(error).encode())
            reader, writer = await asyncio.open_connection(host, port)
    writer.close()


async def main(host: str, port: int, total: int, connections: int, images: Path, output: Path) -> None:
    load = Load([path.read_bytes() for path in sorted(images.iterdir())], total)
    await asyncio.gather(*(swing(load, host, port) for _ in range(connections)))
    output.write_bytes(b"\n".join(load.answers))


if __name__ == "__main__":
    host, port, total, connections, images, output = sys.argv[1:]
    asyncio.run(main(host, int(port), int(total), int(connections), Path(images), Path(output)))
