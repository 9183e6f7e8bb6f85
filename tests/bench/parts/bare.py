"""The machine's limit: decode and infer, the same functions at the same precision, without HTTP and without a log."""

import multiprocessing
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

from ml.imaging import images
from ml.imaging.images import Limits
from ml.models import model
from ml.models.bundle import Variant

_LIMITS = Limits(20_000_000, 40_000_000)
_WARM = 10


@dataclass(frozen=True)
class Bare:
    """Images a second of all processes together, and the median milliseconds of one image."""

    rate: float
    milliseconds: float


def bare(folder: Path, variant: Variant, photos: Sequence[bytes], processes: int, seconds: float) -> Bare:
    """So many processes at once, each with a model and a thread of its own."""
    context = multiprocessing.get_context("spawn")
    results: Queue[tuple[float, float]] = context.Queue()
    start = context.Barrier(processes)
    arguments = (folder, variant, list(photos), seconds, start, results)
    running = [context.Process(target=_run, args=(n, *arguments)) for n in range(processes)]
    for process in running:
        process.start()
    measurements = [results.get(timeout=120) for _ in running]
    for process in running:
        process.join()
    return Bare(sum(rate for rate, _ in measurements), statistics.median(ms for _, ms in measurements))


def _run(
    number: int,
    folder: Path,
    variant: Variant,
    photos: list[bytes],
    seconds: float,
    start: Barrier,
    results: "Queue[tuple[float, float]]",
) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[number % len(cores)]})
    loaded = model.load(folder, variant=variant)
    size = loaded.info.image_size

    def one(n: int) -> None:
        loaded.predict(images.decode(photos[n % len(photos)], size, 3, _LIMITS)[None])

    for n in range(_WARM):
        one(n)
    start.wait(120)
    times: list[float] = []
    begun = time.perf_counter()
    while (now := time.perf_counter()) < begun + seconds:
        one(len(times))
        times.append(time.perf_counter() - now)
    results.put((len(times) / (time.perf_counter() - begun), 1000 * statistics.median(times)))
