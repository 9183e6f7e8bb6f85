"""The process that decodes: no credentials, little memory, little time; what happens to it happens to nobody else.

Started by `ml.intake.decoding`. Reads batches from its standard input and writes a line of JSON for
each: a list of `ml.images.Features` or ``{"problem": words}``. Ends when its input ends, so it cannot
outlive who started it.
"""

import struct
import sys
from typing import IO

import orjson

from ml import bounds, images
from ml.errors import ImageRejectedError
from ml.images import Limits

READY = b"ready\n"


def main(arguments: list[str]) -> None:
    """`arguments`: most bytes and pixels of an image, bytes of memory, seconds of processor time an image."""
    limits = Limits(int(arguments[0]), int(arguments[1]))
    bounds.bind(int(arguments[2]))
    incoming, outgoing = sys.stdin.buffer, sys.stdout.buffer
    outgoing.write(READY)
    outgoing.flush()
    while batch := _read(incoming):
        outgoing.write(orjson.dumps([_answer(data, limits, float(arguments[3])) for data in batch]) + b"\n")
        outgoing.flush()


def _read(incoming: IO[bytes]) -> list[bytes]:
    """A batch: their number, their sizes, the images; empty at the end of the input."""
    count = incoming.read(4)
    if len(count) < 4:
        return []
    sizes = struct.unpack(f"<{int.from_bytes(count, 'little')}I", incoming.read(4 * int.from_bytes(count, "little")))
    return [incoming.read(size) for size in sizes]


def _answer(data: bytes, limits: Limits, seconds: float) -> object:
    bounds.allow(seconds)
    try:
        return images.inspect(data, limits)
    except ImageRejectedError as error:
        return {"problem": str(error).replace("\0", "")}
    except MemoryError:
        return {"problem": "decoding the image takes more memory than it may"}
    finally:
        bounds.allow(0)


if __name__ == "__main__":
    main(sys.argv[1:])
