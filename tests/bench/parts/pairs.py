"""Real pairs of models: which test images each of a chain of refreshes gets right.

`python -m tests.bench.parts.pairs` trains a chain for each of `SETS` (the production plan, recipe and loop: a first
training and nine refreshes on 10,000 images, at most 5 epochs each; minutes) and writes the answers to 5,000
test images beside this file, so that the benchmark of the gate trains nothing.
"""

import gzip
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

SETS: Final = ("fashion-mnist", "cifar10")
_TRAIN, _TEST = 10_000, 5_000

Pictures = tuple[NDArray[np.uint8], NDArray[np.int64]]


def read(name: str) -> NDArray[np.bool_]:
    """Right answers, ``bool[models, images]``, the oldest model first."""
    packed = np.load(_file(name), allow_pickle=False)
    return np.unpackbits(packed, axis=1, count=_TEST).astype(np.bool_)


def disagreements(name: str) -> NDArray[np.float64]:
    """The share of images that exactly one of two gets right, for each model and the next."""
    right = read(name)
    found: NDArray[np.float64] = (right[1:] != right[:-1]).mean(axis=1)
    return found


def main() -> None:
    from ml.settings import Settings
    from tests.bench.parts import stream

    for name in SETS:
        train, test = _cifar10() if name == "cifar10" else _fashion()
        drops = stream.make("shuffled", train, test, seed=1)
        _, answers = stream.refreshed(drops, Settings(epochs=5))
        np.save(_file(name), np.packbits(np.stack(answers), axis=1))


def _file(name: str) -> Path:
    return Path(__file__).with_name(f"pairs-{name}.npy")


def _cifar10() -> tuple[Pictures, Pictures]:
    from tests.bench.parts import stream

    return stream.read(stream.DATA, _TRAIN), stream.read(stream.DATA.with_name("test.tar"), _TEST)


def _fashion() -> tuple[Pictures, Pictures]:
    """At 32 px and in three channels, as the stream's networks want them."""
    from tests.bench.parts import stream

    folder = stream.DATA.parents[1] / "fashion-mnist"

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
