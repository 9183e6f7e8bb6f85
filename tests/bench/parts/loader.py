"""Training from the segment cache beside the same loop on arrays in memory."""

import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from ml.context import Context
from ml.datasets import loader
from ml.imaging import images
from ml.settings import Settings
from ml.storage.object_store import ObjectStore
from ml.training.data.feed import ImageArray, Labels
from ml.training.loop import recipe
from ml.training.loop.fit import fit
from ml.training.network import networks
from tests.bench.parts import stored
from tests.bench.report import spread
from tests.servers import storage

IMAGES, SIDE, PAIRS = 8_000, 32, 5
_READ, _DECODED = "segment objects read", "images decoded"


def figures() -> dict[str, Any]:
    """Raises FileNotFoundError when the images are not there."""
    with tempfile.TemporaryDirectory(prefix="evergreen-bench-") as folder, storage(Path(folder)) as running:
        settings: dict[str, Any] = {"segment_bytes": 4_000_000}  # several segments, as after several drops
        with stored.system(running, Path(folder) / "home", "loader", **settings) as ctx:
            _, version = stored.stored(ctx, "one", stored.files(IMAGES))
            cycles: list[dict[str, float]] = []
            for _ in ("first", "second"):
                started = time.perf_counter()
                with _counted(ctx) as (counting, done):
                    train = loader.load(counting, version, "train", SIDE, 3)
                cycles.append({"seconds to load": time.perf_counter() - started, **done})
            seconds = _shares(ctx, version, train.images, train.labels)
    return {
        "share_of_memory_speed": spread([m / c for m, c in zip(seconds["memory"], seconds["cache"], strict=True)]),
        "share of it with nothing in the page cache": spread(
            [m / c for m, c in zip(seconds["memory"], seconds["cold"], strict=True)]
        ),
        **{f"{name}: images a second": spread([len(train) / s for s in seconds[name]]) for name in seconds},
        **{
            f"{which} cycle: {k}": v
            for which, cycle in zip(("first", "second"), cycles, strict=True)
            for k, v in cycle.items()
        },
    }


def _shares(ctx: Context, version: str, cached: ImageArray, labels: Labels) -> dict[str, list[float]]:
    """Seconds of an epoch, in turns."""
    memory = np.ascontiguousarray(cached[:])
    seconds: dict[str, list[float]] = {"memory": [], "cache": [], "cold": []}
    for number in range(PAIRS + 1):
        kinds = ("memory", "cache", "cold")
        for name in kinds if number % 2 else kinds[::-1]:
            pictures = memory if name == "memory" else cached
            if name == "cold":
                _forget(ctx.settings.home / "cache")
                pictures = loader.load(ctx, version, "train", SIDE, 3).images
            took = _epoch(pictures, labels)
            if number:  # the first warms up
                seconds[name].append(took)
    return seconds


def _epoch(pictures: ImageArray, labels: Labels) -> float:
    network = networks.seeded(3, 10, SIDE, 1)
    chosen = recipe.from_settings(Settings(), len(labels), SIDE, 3, epochs=1)
    judge = pictures[:64], labels[:64]
    started = time.perf_counter()
    fit(network, (pictures, labels), judge, chosen)
    return time.perf_counter() - started


def _forget(folder: Path) -> None:
    """The kernel drops what it keeps of these files; what a process maps just now may stay."""
    os.sync()
    for path in folder.rglob("*.npy"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def _counted(ctx: Context) -> Iterator[tuple[Context, Counter[str]]]:
    """A context that counts what is read of segments, and how many images are decoded meanwhile."""
    done: Counter[str] = Counter({_READ: 0, _DECODED: 0})
    whole = images.decode

    class Counting:
        """The store, counting."""

        def __init__(self, inner: ObjectStore) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            method = getattr(self._inner, name)

            def called(*arguments: Any, **more: Any) -> Any:
                done[_READ] += name.startswith("get") and "segment" in str(arguments[0])
                return method(*arguments, **more)

            return called

    def decode(*arguments: Any, **more: Any) -> Any:
        done[_DECODED] += 1
        return whole(*arguments, **more)

    with mock.patch.object(images, "decode", decode):
        yield replace(ctx, store=Counting(ctx.store)), done
