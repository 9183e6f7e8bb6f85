"""Real photographs in every format that is read, damaged in seeded ways, and a service that is sent them."""

import io
import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import httpx
import numpy as np
from PIL import Image

_EXTREMES: Final = (
    b"\x00\x00\x00\x00",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\x00\x00\x00",
    b"\x00\x00\x00\x01",
)


@cache
def specimens() -> tuple[tuple[str, bytes], ...]:
    """(format and how it is written, bytes) of pieces of two photographs."""
    from sklearn.datasets import load_sample_images

    china, flower = (Image.fromarray(pixels) for pixels in load_sample_images().images)
    colour, small = china.crop((60, 40, 220, 160)), flower.crop((200, 150, 264, 214))
    encoded = []
    for name, image, options in (
        ("JPEG", colour, {"quality": 85}),
        ("JPEG progressive", colour, {"quality": 60, "progressive": True}),
        ("JPEG grey", colour.convert("L"), {}),
        ("JPEG cmyk", colour.convert("CMYK"), {}),
        ("PNG", colour, {}),
        ("PNG alpha", small.convert("RGBA"), {}),
        ("PNG palette", small.convert("P"), {}),
        ("PNG 16 bit", Image.fromarray(np.asarray(small.convert("L")).astype(np.uint16) * 257), {}),
        ("WEBP", colour, {"quality": 70}),
        ("WEBP lossless", small, {"lossless": True}),
        ("WEBP animated", small, {"save_all": True, "append_images": [small.rotate(90), small.rotate(180)]}),
        ("GIF", small.convert("P"), {}),
        ("GIF animated", small.convert("P"), {"save_all": True, "append_images": [small.rotate(90).convert("P")]}),
        ("TIFF", small, {}),
        ("TIFF lzw", colour, {"compression": "tiff_lzw"}),
        ("TIFF deflate", small.convert("L"), {"compression": "tiff_adobe_deflate"}),
        ("TIFF jpeg", colour, {"compression": "jpeg"}),
        ("BMP", small, {}),
        ("BMP palette", small.convert("P"), {}),
        ("AVIF", colour, {"quality": 60}),
    ):
        buffer = io.BytesIO()
        image.save(buffer, name.split()[0], **options)
        encoded.append((name, buffer.getvalue()))
    return tuple(encoded)


def mutants(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """(format, damaged bytes): the same for the same seed."""
    dice = random.Random(seed)
    whole = specimens()
    for number in range(count):
        name, data = whole[number % len(whole)]
        damaged = bytearray(data)
        for _ in range(dice.choice((1, 1, 2, 4))):
            damaged = bytearray(dice.choice(_WAYS)(dice, damaged, whole))
        yield name, bytes(damaged)


def _flip(dice: random.Random, data: bytearray, _: Any) -> bytearray:
    for _n in range(dice.choice((1, 3, 20))):
        if data:
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    return data


def _flip_head(dice: random.Random, data: bytearray, _: Any) -> bytearray:
    """Headers decide most: sizes, counts, offsets."""
    for _n in range(dice.choice((1, 2, 5))):
        if data:
            data[dice.randrange(min(len(data), 200))] = dice.randrange(256)
    return data


def _extreme(dice: random.Random, data: bytearray, _: Any) -> bytearray:
    at = dice.randrange(min(len(data), 400) + 1)
    return data[:at] + dice.choice(_EXTREMES) + data[at + 4 :]


def _cut(dice: random.Random, data: bytearray, _: Any) -> bytearray:
    return data[: dice.randrange(len(data) + 1)]


def _lose(dice: random.Random, data: bytearray, _: Any) -> bytearray:
    at, size = dice.randrange(len(data) + 1), dice.choice((1, 2, 16, 200))
    return data[:at] + data[at + size :]


def _repeat(dice: random.Random, data: bytearray, _: Any) -> bytearray:
    at, size = dice.randrange(len(data) + 1), dice.choice((1, 4, 64, 1000))
    return data[:at] + data[at : at + size] * dice.choice((2, 3, 50)) + data[at + size :]


def _blank(dice: random.Random, data: bytearray, _: Any) -> bytearray:
    at, size = dice.randrange(len(data) + 1), dice.choice((4, 32, 500))
    return data[:at] + bytes([dice.choice((0, 255))]) * len(data[at : at + size]) + data[at + size :]


def _splice(dice: random.Random, data: bytearray, whole: Any) -> bytearray:
    """The head of one format, the rest of another."""
    _, other = dice.choice(whole)
    return data[: dice.randrange(min(len(data), 600) + 1)] + other[dice.randrange(len(other)) :]


_WAYS: Final[tuple[Callable[[random.Random, bytearray, Any], Any], ...]] = (
    _flip, _flip, _flip_head, _flip_head, _extreme, _extreme, _cut, _lose, _repeat, _blank, _splice,
)  # fmt: skip


@dataclass
class Tally:
    """What became of the mutants.

    Attributes:
        codes: by format and by the problem's code, `answered` for a prediction.
        failures: everything that is neither an answer nor a refusal of the image.
        slowest: seconds of the slowest one.
    """

    codes: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def note(self, name: str, data: bytes, answer: httpx.Response) -> None:
        code = "answered" if answer.status_code == 200 else answer.json()["code"]
        self.codes[name, code] += 1
        self.slowest = max(self.slowest, answer.elapsed.total_seconds())
        if answer.status_code not in (200, 422):
            self.failures.append(f"{name}, {len(data)} bytes: {answer.status_code} {answer.text[:300]}")


def storm(url: str, seed: int, count: int, threads: int = 4) -> Tally:
    """Send mutants to a running service, half of them as forms; nothing is tried again."""
    tally = Tally()
    with httpx.Client(base_url=url, timeout=60) as http:

        def send(numbered: tuple[int, tuple[str, bytes]]) -> None:
            number, (name, data) = numbered
            try:
                if number % 2:
                    answer = http.post("/v1/predict", files={"file": ("x", data)})
                else:
                    answer = http.post("/v1/predict", content=data, headers={"content-type": "image/jpeg"})
            except httpx.HTTPError as error:  # a worker that died
                tally.failures.append(f"{name}, {len(data)} bytes: {error!r}")
                return
            tally.note(name, data, answer)

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(send, enumerate(mutants(seed, count))))
    return tally
