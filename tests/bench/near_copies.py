"""Near copies: how many transformed copies of stored images are missed, how many distinct images are called copies.

`leak`: the share of copies of 100 originals, among the other images of the data set, that are not found; each
missed one may enter training while its original is in the holdout. `false_pairs`: pairs of distinct images called
copies, of all pairs of them; real near duplicates within the data sets are counted too. `false_samples`: the share of
distinct images that are called a copy of another one.
"""

import gzip
import io
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from ml.datasets.near_copies import CopySearch, copies_of
from ml.imaging import copy_signature, perceptual_hash
from tests.bench.report import spread

SHARED = Path("../shared/data")
ORIGINALS, DISTINCT, OTHERS = 100, 400, 5000
Transform = Callable[[Image.Image, random.Random], Image.Image]


def run() -> dict[str, Any]:
    """Figures of each data set and transformation."""
    figures: dict[str, Any] = {}
    for name, read in SETS.items():
        for kind, value in _figures(read()).items():
            figures[f"{kind}, {name}"] = spread([value])
    return {"runs": 1, "figures": figures}


def _figures(images: list[Image.Image]) -> dict[str, float]:
    random.Random(1).shuffle(images)
    stored = images[: ORIGINALS + OTHERS]
    rng = random.Random(2)
    copies = {
        name: [transform(i.convert("RGB"), rng) for i in stored[:ORIGINALS]] for name, transform in TRANSFORMS.items()
    }
    everything = [*stored, *(copy for of_kind in copies.values() for copy in of_kind)]
    thumbnails = copy_signature.shrink(
        np.stack([np.asarray(perceptual_hash.downscale(i.convert("L"))) for i in everything])
    )
    sides = np.array([min(i.size) for i in everything], np.int64)
    search = CopySearch(None, thumbnails, sides, stored=0)
    distinct = range(max(0, len(stored) - DISTINCT), len(stored))
    called = [len(_found(search, number, len(stored))) for number in distinct]
    figures = {"false_pairs": sum(called) / sum(distinct), "false_samples": float(np.mean([n > 0 for n in called]))}
    for position, name in enumerate(copies):
        first = len(stored) + position * ORIGINALS
        missed = [i not in _found(search, first + i, len(stored)) for i in range(ORIGINALS)]
        figures[f"leak, {name}"] = float(np.mean(missed))
    return figures


def _found(search: CopySearch, number: int, stored: int) -> set[int]:
    candidates = [c for c in search.find([number]).get(number, ()) if isinstance(c.found, int) and c.found < stored]
    chosen = copies_of(candidates, {c.found: str(c.found) for c in candidates})
    return {c.found for c in chosen if isinstance(c.found, int)}


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
    with gzip.open(SHARED / "fashion-mnist/train-images-idx3-ubyte.gz") as file:
        pixels: NDArray[np.uint8] = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    return [Image.fromarray(image) for image in pixels[: ORIGINALS + OTHERS]]


SETS: dict[str, Callable[[], list[Image.Image]]] = {
    "Fashion-MNIST": _clothes,
    "CIFAR-10": lambda: _tar("cifar10/train.tar"),
    "cats and dogs": lambda: _tar("cats-dogs/train.tar"),
    "cat breeds": lambda: _tar("cat-breeds/train.tar"),
}
