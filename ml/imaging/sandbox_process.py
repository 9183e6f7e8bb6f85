"""The decoding process: without credentials, with bounded memory and processor time.

Started by `ml.imaging.sandbox`. Reads batches from its standard input and writes a line of JSON for
each: a list of `ml.imaging.features.Features` or ``{"problem": message}``. Exits when its input ends, so it cannot
outlive its parent.
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
_MAX_PENDING_PIXELS = 1_000_000  # of decoded images that are not yet measured


def main(arguments: list[str]) -> None:
    """`arguments`: maximal bytes and pixels of an image, bytes of memory, seconds of processor time per image."""
    limits = Limits(int(arguments[0]), int(arguments[1]))
    process_limits.limit_memory(int(arguments[2]))
    incoming, outgoing = os.fdopen(sys.stdin.fileno(), "rb", _BUFFER), sys.stdout.buffer
    outgoing.write(READY)
    outgoing.flush()
    while batch := _read_batch(incoming):
        results = list(_process_batch(batch, limits, float(arguments[3])))
        process_limits.limit_cpu_time(0)  # once per batch, because it is a system call
        outgoing.write(orjson.dumps(results) + b"\n")
        outgoing.flush()


def _read_batch(incoming: IO[bytes]) -> list[bytes]:
    """A batch is encoded as the number of images, their sizes and their bytes; empty at the end of the input."""
    count = incoming.read(4)
    if len(count) < 4:
        return []
    sizes = struct.unpack(f"<{int.from_bytes(count, 'little')}I", incoming.read(4 * int.from_bytes(count, "little")))
    return [incoming.read(size) for size in sizes]


def _process_batch(batch: list[bytes], limits: Limits, seconds: float) -> Iterator[object]:
    """Results in order. Decoded images are collected, so that small ones are measured together."""
    pending: list[object] = []
    pending_pixels = 0
    for data in batch:
        decoded = _run_limited(lambda data=data: images.decode_for_features(data, limits), seconds)  # type: ignore[misc]
        pending.append(decoded)
        pending_pixels += decoded.levels.size if isinstance(decoded, DecodedImage) else 0
        if pending_pixels > _MAX_PENDING_PIXELS:
            yield from _measure(pending, seconds)
            pending, pending_pixels = [], 0
    yield from _measure(pending, seconds)


def _measure(pending: list[object], seconds: float) -> Iterator[object]:
    decoded = [image for image in pending if isinstance(image, DecodedImage)]
    measured = _run_limited(lambda: features.measure(decoded), seconds)
    if not isinstance(measured, list):  # not enough memory to measure them together, or for the only one
        measured = [_run_limited(lambda image=image: features.measure([image])[0], seconds) for image in decoded]  # type: ignore[misc]
    results = iter(measured)
    return (next(results) if isinstance(image, DecodedImage) else image for image in pending)


def _run_limited(function: Callable[[], object], seconds: float) -> object:
    """The result of `function`, or a problem with the image; `seconds` of processor time are counted from here."""
    process_limits.limit_cpu_time(seconds)
    try:
        return function()
    except ImageRejectedError as error:
        return {"problem": str(error).replace("\0", "")}
    except MemoryError:
        return {"problem": "decoding the image takes more memory than it may"}


if __name__ == "__main__":
    main(sys.argv[1:])
