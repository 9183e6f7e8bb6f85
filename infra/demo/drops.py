"""The three drops of the story, made from the pictures and laid out on disk as a user would have them."""

import io
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from infra.demo.pictures import Picture

GIANT_SIDE = 6000


@dataclass(frozen=True)
class Story:
    """The three drops, in order, and the images sent to the service."""

    first: list[Picture]
    second: list[Picture]
    third: list[Picture]
    questions: list[Picture]


def make_story(pictures: Sequence[Picture], seed: int = 0) -> Story:
    """Split the pictures 48 : 32 : 12 : 8 into three drops and questions for the service.

    The first drop is clean but for four files that must be quarantined or skipped; three quarters
    of the second are rotated, noisy or inverted; the third has its labels shuffled.
    """
    generator = random.Random(seed)
    a, b, c = (int(len(pictures) * share) for share in (0.48, 0.80, 0.92))
    first = list(pictures[:a])
    second = [p if i % 4 == 0 else _hard(p, generator) for i, p in enumerate(pictures[a:b])]
    third = _shuffled(pictures[b:c], generator)
    return Story([*first, *_bad(first)], second, third, [*pictures[c:], *second[:: max(1, len(second) // 50)]])


def write(pictures: Sequence[Picture], folder: Path) -> Path:
    """A folder a class; an existing folder is replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    for picture in pictures:
        path = folder / picture.label / picture.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture.data)
    return folder


def hardened(picture: Picture, seed: int) -> Picture:
    """The picture rotated, noisy or inverted, by the seed's choice."""
    return _hard(picture, random.Random(seed))


def _bad(good: Sequence[Picture]) -> list[Picture]:
    victim = max(good[:50], key=lambda p: len(p.data))
    buffer = io.BytesIO()
    Image.new("L", (GIANT_SIDE, GIANT_SIDE), 128).save(buffer, "PNG")
    return [
        Picture(victim.label, "bad-truncated.png", victim.data[: len(victim.data) // 2]),
        Picture(victim.label, "bad-text.png", b"this is a text file that was renamed\n"),
        Picture(victim.label, f"duplicate-of-{victim.name}", victim.data),
        Picture(victim.label, "bad-giant.png", buffer.getvalue()),
    ]


def _hard(picture: Picture, generator: random.Random) -> Picture:
    image = picture.open()
    kind = generator.choice(("rotated", "noisy", "inverted"))
    if kind == "rotated":
        image = image.rotate(generator.choice((90, 270)), expand=True)
    elif kind == "inverted":
        image = ImageOps.invert(image)
    else:
        noise = np.random.default_rng(generator.getrandbits(32)).normal(0, 60, np.asarray(image).shape)
        image = Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))
    return Picture.of(picture.label, f"{kind}-{picture.name}", image)


def _shuffled(pictures: Sequence[Picture], generator: random.Random) -> list[Picture]:
    labels = generator.sample([p.label for p in pictures], len(pictures))
    return [Picture(label, p.name, p.data) for label, p in zip(labels, pictures, strict=True)]
