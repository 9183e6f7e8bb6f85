"""A real bundle of MobileNetV2 with random weights, and photo-like JPEGs to ask it about."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from ml.models.bundle import BundleInfo

SIDE = 224
CLASSES = 10


def bundle(folder: Path) -> str:
    """Export it as a training would; returns the bundle's digest."""
    import torch

    from ml.training import export
    from ml.training.network.backbones import Backbone

    torch.manual_seed(1)
    folder.mkdir(parents=True)
    info = BundleInfo(
        architecture="mobilenet_v2",
        labels=tuple(f"class {n}" for n in range(CLASSES)),
        image_size=SIDE,
        channels=3,
        dataset_version="bench",
        run_id="0" * 32,
        code_version="bench",
        seed=1,
        class_shares={f"class {n}": 1 / CLASSES for n in range(CLASSES)},
        files={},
    )
    sample = np.random.default_rng(1).integers(0, 256, (8, SIDE, SIDE, 3), dtype=np.uint8)
    return export.export(Backbone("mobilenet_v2", 3, CLASSES, SIDE), info, sample, folder)


def photo(seed: int, width: int = 500, height: int = 375) -> bytes:
    """A JPEG as large as a photo of this size: blotches, and grain over them; about 50 kB."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    blotches = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    grain = rng.normal(0, 14, (height, width, 1))
    pixels = np.clip(np.asarray(blotches, np.float32) + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(0.6)).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()
