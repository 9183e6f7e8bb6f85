"""Real pairs of models: which test images each of a chain of refreshes gets right, and its Brier scores on them.

`python -m tests.bench.parts.pairs` trains a chain for each of `SETS` (the production plan, recipe and loop: a first
training and nine refreshes on 10,000 images, at most 5 epochs each; minutes) and writes what they answer to 5,000
test images beside this file, so that the benchmark of the gate trains nothing. Brier scores are kept in 200ths.
"""

import gzip
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

SETS: Final = ("fashion-mnist", "cifar10")
_TRAIN, _TEST = 10_000, 5_000
_STEPS: Final = 200
"""Of a Brier score, from one whole number to the next."""

Pictures = tuple[NDArray[np.uint8], NDArray[np.int64]]


def read(name: str) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Right answers ``bool[models, images]`` and Brier scores, 0 to 2, likewise; the oldest model first."""
    with np.load(_file(name), allow_pickle=False) as stored:
        right = np.unpackbits(stored["right"], axis=1, count=_TEST).astype(np.bool_)
        return right, stored["brier"] / _STEPS


def disagreements(name: str) -> NDArray[np.float64]:
    """The share of images that exactly one of two gets right, for each model and the next."""
    right, _ = read(name)
    shares: NDArray[np.float64] = (right[1:] != right[:-1]).mean(axis=1)
    return shares


def gains(name: str) -> list[float]:
    """How many times the samples it takes to tell each model and the next apart by right answers, not Brier scores.

    The square of the ratio of both differences' standard errors: refreshes gain about as many points of the one as of
    the other.
    """
    right, brier = read(name)
    return [
        float(np.var(np.diff(right[i : i + 2].astype(float), axis=0)) / np.var(np.diff(brier[i : i + 2], axis=0)))
        for i in range(len(right) - 1)
    ]


def main() -> None:
    from ml.settings import Settings
    from tests.bench.parts import stream

    for name in SETS:
        train, test = _cifar10() if name == "cifar10" else _fashion()
        course = stream.refreshed(stream.make("shuffled", train, test, seed=1), Settings(epochs=5), gated=False)
        brier = np.round(course.brier * _STEPS).astype(np.uint16)
        np.savez_compressed(_file(name), right=np.packbits(course.answers == test[1], axis=1), brier=brier)


def _file(name: str) -> Path:
    return Path(__file__).with_name(f"pairs-{name}.npz")


def _cifar10() -> tuple[Pictures, Pictures]:
    from tests.bench.parts import stored, stream

    return stream.pixels(stored.DATA, _TRAIN), stream.pixels(stored.DATA.with_name("test.tar"), _TEST)


def _fashion() -> tuple[Pictures, Pictures]:
    """At 32 px and in three channels, as the stream's networks want them."""
    from tests.bench.parts import stored

    folder = stored.DATA.parents[1] / "fashion-mnist"

    def idx(part: str, count: int) -> Pictures:
        pixels = np.frombuffer(
            gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes()), np.uint8, -1, 16
        )
        labels = np.frombuffer(gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, -1, 8)
        images = np.pad(pixels.reshape(-1, 28, 28, 1)[:count], ((0, 0), (2, 2), (2, 2), (0, 0))).repeat(3, axis=-1)
        return images, labels[:count].astype(np.int64)

    return idx("train", _TRAIN), idx("t10k", _TEST)


if __name__ == "__main__":
    main()
