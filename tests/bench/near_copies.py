"""Near copies: how many transformed copies are missed, how many distinct images are called copies, at which cost.

Copies of 100 images are searched for among up to 5,000 images to which neither projections nor thresholds were fitted
(but some thresholds to cat breeds, which have no test set). `missed`: the share of copies by one or two
transformations that are not found. `leak`: the share that is expected to enter training by that, if the originals are
in the holdout, since what is missed is split as any other picture. `false pairs`: pairs of distinct images that are
called copies, of all pairs; photographs that really are in a data set twice are counted too, unless their perceptual
hashes are near. `prefix of 4 million` looks up the longer prefixes that a store of so many samples asks for. `ms a
sample` is CPU time of all threads, without what Postgres does.
"""

import gzip
import io
import random
import statistics
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from ml.datasets.near_copies import CopySearch, StoredCopy, copies_of
from ml.datasets.near_duplicates import find_within
from ml.imaging import copy_signature, perceptual_hash
from ml.settings import Settings
from tests.bench.report import Bar

SHARED = Path("../shared/data")
ORIGINALS, DISTINCT, OTHERS = 100, 400, 4900
MANY = 4_000_000
TIMED = 5
Transform = Callable[[Image.Image, random.Random], Image.Image]


def run() -> dict[str, Any]:
    """Figures of each data set and transformation, and bars for the sums."""
    figures: dict[str, float] = {}
    bars: dict[str, Bar] = {}
    for name, read in SETS.items():
        for kind, value in _figures(read()).items():
            figures[f"{name}: {kind}"] = float(f"{value:.2g}") if kind == "false pairs" else round(value, 3)
        bars[f"{name}: leak"] = Bar("at most", 0.02)
        bars[f"{name}: false pairs"] = Bar("at most", 0.0001)
        bars[f"{name}: leak, prefix of 4 million"] = Bar("at most", 0.02)
        bars[f"{name}: ms a sample"] = Bar("at most", 1)
    return {"runs": 1, "figures": figures, "bars": bars}


def _figures(images: list[Image.Image]) -> dict[str, float]:
    random.Random(1).shuffle(images)
    stored = images[: ORIGINALS + OTHERS]
    large = _thumbnails(stored)
    distinct = range(max(0, len(stored) - DISTINCT), len(stored))
    near = find_within(*perceptual_hash.phashes(large).T)
    search = CopySearch(None, copy_signature.shrink(large), _sides(stored), stored=0)
    seconds = []
    for _ in range(TIMED):
        started = time.process_time()
        by_number = _found(search, distinct, len(stored))
        seconds.append(time.process_time() - started)
    called = [len(by_number[n] - set(near.get(n, ()))) for n in distinct]
    figures = {
        "false pairs": sum(called) / sum(distinct),
        "distinct images called a copy": float(np.mean([n > 0 for n in called])),
        "ms a sample": 1000 * statistics.median(seconds) / len(distinct),
    }
    rng = random.Random(2)
    missed: dict[str, list[bool]] = {}
    for name, transform in TRANSFORMS.items():
        copies = [transform(image.convert("RGB"), rng) for image in stored[:ORIGINALS]]
        thumbnails = copy_signature.shrink(np.concatenate([large, _thumbnails(copies)]))
        sides = np.concatenate([_sides(stored), _sides(copies)])
        for suffix, count in (("", 0), (", prefix of 4 million", MANY)):
            search = CopySearch(None, thumbnails, sides, stored=count)
            by_number = _found(search, range(len(stored), len(thumbnails)), len(stored))
            of_kind = [i not in by_number[len(stored) + i] for i in range(len(copies))]
            missed.setdefault(suffix, []).extend(of_kind)
            if not suffix:
                missed[f", {name}"] = of_kind
    shares = Settings.model_fields
    trains = 1 - shares["holdout_share"].default - shares["validation_share"].default
    for suffix in ("", ", prefix of 4 million"):
        figures[f"leak{suffix}"] = trains * float(np.mean(missed[suffix]))
    return figures | {f"missed{kind}": float(np.mean(of_kind)) for kind, of_kind in missed.items()}


def _thumbnails(images: list[Image.Image]) -> NDArray[np.uint8]:
    return np.stack([np.asarray(perceptual_hash.downscale(image.convert("L"))) for image in images])


def _sides(images: list[Image.Image]) -> NDArray[np.int64]:
    return np.array([min(image.size) for image in images], np.int64)


def _found(search: CopySearch, numbers: Sequence[int], stored: int) -> dict[int, set[int]]:
    """Position → those of the first `stored` images that it is called a copy of, each taken for a group of its own."""
    by_number: dict[int, set[int]] = {number: set() for number in numbers}
    for number, candidates in search.find(numbers).items():
        groups: dict[StoredCopy | int, str] = {
            c.found: str(c.found) for c in candidates if isinstance(c.found, int) and c.found < stored
        }
        chosen = copies_of(candidates, groups)
        by_number[number] = {c.found for c in chosen if isinstance(c.found, int)}
    return by_number


def _crop(share: float, corner: bool) -> Transform:
    def crop(image: Image.Image, rng: random.Random) -> Image.Image:
        width, height = (max(1, round(side * share)) for side in image.size)
        x, y = (rng.choice((0, width)), rng.choice((0, height))) if corner else (width // 2, height // 2)
        return image.crop((x, y, x + image.width - width, y + image.height - height))

    return crop


def _shift(image: Image.Image, rng: random.Random) -> Image.Image:
    most = 2 if max(image.size) < 64 else round(0.02 * max(image.size))
    x, y = rng.choice((-most, most)), rng.choice((-most, 0, most))
    return image.transform(image.size, Image.Transform.AFFINE, (1, 0, x, 0, 1, y))


def _jpeg(image: Image.Image, rng: random.Random) -> Image.Image:
    del rng
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return Image.open(buffer).convert("RGB")


def _resize(scale: float) -> Transform:
    return lambda image, _: image.resize((round(image.width * scale), round(image.height * scale)))


def _noise(image: Image.Image, rng: random.Random) -> Image.Image:
    noise = np.random.default_rng(rng.randrange(1 << 30)).integers(-3, 4, (image.height, image.width, 3))
    return Image.fromarray((np.asarray(image).astype(int) + noise).clip(0, 255).astype(np.uint8))


def _two(image: Image.Image, rng: random.Random) -> Image.Image:
    first, second = rng.sample([name for name in TRANSFORMS if name != "two"], 2)
    return TRANSFORMS[second](TRANSFORMS[first](image, rng), rng)


TRANSFORMS: dict[str, Transform] = {
    "mirror": lambda image, _: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "90 degrees": lambda image, _: image.transpose(Image.Transpose.ROTATE_90),
    "180 degrees": lambda image, _: image.transpose(Image.Transpose.ROTATE_180),
    "270 degrees": lambda image, _: image.transpose(Image.Transpose.ROTATE_270),
    **{f"crop {s:.0%}{' corner' if c else ''}": _crop(s, c) for s in (0.02, 0.05, 0.1) for c in (False, True)},
    "shift": _shift,
    "brightness": lambda image, rng: ImageEnhance.Brightness(image).enhance(rng.choice((0.75, 1.3))),
    "contrast": lambda image, rng: ImageEnhance.Contrast(image).enhance(rng.choice((0.75, 1.3))),
    "gamma": lambda image, _: image.point([round(255 * (level / 255) ** 0.75) for level in range(256)] * 3),
    "saturation": lambda image, rng: ImageEnhance.Color(image).enhance(rng.choice((0.5, 1.5))),
    "jpeg 60": _jpeg,
    "resize 75 %": _resize(0.75),
    "resize 150 %": _resize(1.5),
    "noise": _noise,
    "two": _two,
}


def _tar(path: str) -> list[Image.Image]:
    with tarfile.open(SHARED / path) as archive:
        members = [m for m in archive if m.isfile() and m.name.endswith((".jpg", ".png"))]
        step = max(1, len(members) // (ORIGINALS + OTHERS))
        files = (archive.extractfile(m) for m in members[::step])
        return [Image.open(io.BytesIO(file.read())).convert("RGB") for file in files if file is not None]


def _clothes() -> list[Image.Image]:
    with gzip.open(SHARED / "fashion-mnist/t10k-images-idx3-ubyte.gz") as file:
        pixels: NDArray[np.uint8] = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    return [Image.fromarray(image) for image in pixels[: ORIGINALS + OTHERS]]


SETS: dict[str, Callable[[], list[Image.Image]]] = {
    "Fashion-MNIST": _clothes,
    "CIFAR-10": lambda: _tar("cifar10/test.tar"),
    "cats and dogs": lambda: _tar("cats-dogs/test.tar"),
    "cat breeds": lambda: _tar("cat-breeds/train.tar"),
    "PACS photo": lambda: _tar("drift/pacs-photo.tar"),
}
