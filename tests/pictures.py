"""Small real pictures for tests, and drops made of them."""

import io
from functools import cache

import numpy as np
from PIL import Image

from ml.context import Context


@cache
def digits() -> tuple[tuple[str, bytes], ...]:
    """scikit-learn's 1,797 handwritten digits as (label, PNG bytes)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = (bunch.images * 255 / 16).astype(np.uint8)
    return tuple((str(label), png(p)) for p, label in zip(pixels, bunch.target, strict=True))


def png(pixels: "np.ndarray") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def upload(ctx: Context, name: str, files: dict[str, bytes], marker: bytes | None = b"") -> str:
    """Put the files (keys relative to the drop) and the marker; returns the drop's prefix."""
    prefix = f"{ctx.settings.drops_prefix}{name}/"
    for key, data in files.items():
        ctx.labels.put(prefix + key, data)
    if marker is not None:
        ctx.labels.put(f"{prefix}_READY", marker)
    return prefix


def digit_files(start: int, stop: int) -> dict[str, bytes]:
    """Digits `start` to `stop` as class folders."""
    return {f"{label}/{i:04}.png": data for i, (label, data) in enumerate(digits()) if start <= i < stop}


def halves(phash: int) -> tuple[int, int]:
    """A 64-bit perceptual hash as the two numbers that the catalog keeps."""
    high, low = np.array([phash >> 32, phash & 0xFFFFFFFF], np.uint32).view(np.int32).tolist()
    return high, low


def scenery(seed: int, side: int = 96) -> np.ndarray:
    """A random picture ``uint8[side, side]`` with detail at all scales, as photographs have."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((side, side))
    for cells in (3, 5, 9, 17, 33):
        coarse = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
        picture += np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)) * 2 / cells**0.8
    return np.clip(128 + picture * 60, 0, 255).astype(np.uint8)
