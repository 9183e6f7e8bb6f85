"""The process that decodes: no credentials, little memory, little time; what happens to it happens to nobody else.

Started by `ml.imaging.sandbox`. Reads batches from its standard input and writes a line of JSON for
each: a list of `ml.imaging.features.Features` or ``{"problem": words}``. Ends when its input ends, so it cannot
outlive who started it.
"""

import os
import struct
import sys
from collections.abc import Callable, Iterator
from typing import IO

import orjson

from ml.errors import ImageRejectedError
from ml.imaging import features, images, process_limits
from ml.imaging.features import DecodedImage
from ml.imaging.images import Limits

READY = b"ready\n"
_BUFFER = 1 << 18
_HELD = 1_000_000  # pixels that wait to be measured


def main(arguments: list[str]) -> None:
    """`arguments`: most bytes and pixels of an image, bytes of memory, seconds of processor time an image."""
    limits = Limits(int(arguments[0]), int(arguments[1]))
    process_limits.bind(int(arguments[2]))
    incoming, outgoing = os.fdopen(sys.stdin.fileno(), "rb", _BUFFER), sys.stdout.buffer
    outgoing.write(READY)
    outgoing.flush()
    while batch := _read(incoming):
        answers = list(_answers(batch, limits, float(arguments[3])))
        process_limits.allow(0)  # only once a batch: the clock is a system call
        outgoing.write(orjson.dumps(answers) + b"\n")
        outgoing.flush()


def _read(incoming: IO[bytes]) -> list[bytes]:
    """A batch: their number, their sizes, the images; empty at the end of the input."""
    count = incoming.read(4)
    if len(count) < 4:
        return []
    sizes = struct.unpack(f"<{int.from_bytes(count, 'little')}I", incoming.read(4 * int.from_bytes(count, "little")))
    return [incoming.read(size) for size in sizes]


def _answers(batch: list[bytes], limits: Limits, seconds: float) -> Iterator[object]:
    """In order. What was seen of small pictures waits until it is measured together."""
    waiting: list[object] = []
    held = 0
    for data in batch:
        seen = _bounded(lambda data=data: images.sight(data, limits), seconds)  # type: ignore[misc]
        waiting.append(seen)
        held += seen.levels.size if isinstance(seen, DecodedImage) else 0
        if held > _HELD:
            yield from _measured(waiting, seconds)
            waiting, held = [], 0
    yield from _measured(waiting, seconds)


def _measured(waiting: list[object], seconds: float) -> Iterator[object]:
    decoded = [image for image in waiting if isinstance(image, DecodedImage)]
    measured = _bounded(lambda: features.measure(decoded), seconds)
    if not isinstance(measured, list):  # not enough memory for them together, or for the only one
        measured = [_bounded(lambda one=one: features.measure([one])[0], seconds) for one in decoded]  # type: ignore[misc]
    answers = iter(measured)
    return (next(answers) if isinstance(image, DecodedImage) else image for image in waiting)


def _bounded(work: Callable[[], object], seconds: float) -> object:
    """What comes of the work, or what is wrong with the image; so much processor time counts anew from here."""
    process_limits.allow(seconds)
    try:
        return work()
    except ImageRejectedError as error:
        return {"problem": str(error).replace("\0", "")}
    except MemoryError:
        return {"problem": "decoding the image takes more memory than it may"}


if __name__ == "__main__":
    main(sys.argv[1:])
