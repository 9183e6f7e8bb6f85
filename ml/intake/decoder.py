"""The process that decodes: no credentials, little memory, little time; what happens to it happens to nobody else.

Started by `ml.intake.decoding`. Reads batches from its standard input and writes a line of JSON for
each: a list of `ml.images.Features` or ``{"problem": words}``. Ends when its input ends, so it cannot
outlive who started it.
"""

import contextlib
import resource
import signal
import struct
import sys
from typing import IO

import orjson
from PIL import AvifImagePlugin

from ml import images
from ml.errors import ImageRejectedError
from ml.images import Limits

READY = b"ready\n"


def main(arguments: list[str]) -> None:
    """`arguments`: most bytes and pixels of an image, bytes of memory, seconds of processor time an image."""
    limits = Limits(int(arguments[0]), int(arguments[1]))
    _bind(int(arguments[2]))
    incoming, outgoing = sys.stdin.buffer, sys.stdout.buffer
    outgoing.write(READY)
    outgoing.flush()
    while batch := _read(incoming):
        outgoing.write(orjson.dumps([_answer(data, limits, float(arguments[3])) for data in batch]) + b"\n")
        outgoing.flush()


def _bind(memory: int) -> None:
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # there is a process a core already
    for kind, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0)):
        with contextlib.suppress(ValueError, OSError):  # systems differ in what they let be bound
            resource.setrlimit(kind, (most, most))


def _read(incoming: IO[bytes]) -> list[bytes]:
    """A batch: their number, their sizes, the images; empty at the end of the input."""
    count = incoming.read(4)
    if len(count) < 4:
        return []
    sizes = struct.unpack(f"<{int.from_bytes(count, 'little')}I", incoming.read(4 * int.from_bytes(count, "little")))
    return [incoming.read(size) for size in sizes]


def _answer(data: bytes, limits: Limits, seconds: float) -> object:
    # The signal's default action ends the process, even in the middle of a decoder's C code.
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        return images.inspect(data, limits)
    except ImageRejectedError as error:
        return {"problem": str(error).replace("\0", "")}
    except MemoryError:
        return {"problem": "decoding the image takes more memory than it may"}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == "__main__":
    main(sys.argv[1:])
