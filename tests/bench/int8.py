"""INT8 beside fp32: how much faster one image is answered on one thread, and what it costs in accuracy.

`times as fast` is what `ml.training.quantise` measures when it decides, on fresh weights at the size
that backbones were made for. Accuracy is that of networks trained on scikit-learn's digits at 32 px,
compared on the third they were not trained on, with ranges observed on so many training images.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ml.imaging import images
from ml.models import bundle
from ml.models.bundle import BundleInfo, Reduced
from ml.training import export, quantise
from ml.training.loop.fit import fit
from ml.training.loop.recipe import Recipe
from ml.training.network import networks
from tests.bench.report import spread
from tests.pictures import digits

RUNS = 3
SPEED = {"mobilenet_v2": 224, "resnet18": 224, "small_cnn": 32}
LEARNERS = {"small_cnn": 8, "mobilenet_v2": 6}
CALIBRATIONS = (16, 64, 256)
SIDE = 32

Samples = tuple[NDArray[np.uint8], NDArray[np.int64]]


def run() -> dict[str, Any]:
    """Speed of three networks, accuracy of two."""
    figures: dict[str, Any] = {}
    for name, side in SPEED.items():
        figures |= _speed(name, side)
    train, judge = _digits()
    for name, epochs in LEARNERS.items():
        figures |= _accuracy(name, epochs, train, judge)
    return {"runs": RUNS, "figures": figures}


def _speed(name: str, side: int) -> dict[str, Any]:
    pixels = np.random.default_rng(0).integers(0, 256, (32, side, side, 3), np.uint8)
    with _exported(networks.build(name, 3, 10, side, 0), pixels) as folder:
        reports = [_added(folder, pixels[:16], (pixels, np.zeros(len(pixels), np.int64)), 1) for _ in range(RUNS)]
        sizes = [(folder / f).stat().st_size / 1e6 for f in (bundle.MODEL, bundle.INT8_MODEL)]
    what = f"{name} at {side} px"
    return {
        f"{what}: times as fast": spread([report.speedup for report in reports]),
        f"{what}: MB fp32": spread([sizes[0]]),
        f"{what}: MB INT8": spread([sizes[1]]),
    }


def _accuracy(name: str, epochs: int, train: Samples, judge: Samples) -> dict[str, Any]:
    recipe = Recipe(epochs=epochs, patience=9, batch_size=32, learning_rate=2e-3, seed=0)
    network = networks.build(name, 1, 10, SIDE, 0)
    done = fit(network, train, judge, recipe)
    figures = {f"{name}: accuracy of fp32": spread([done.best["validation_accuracy"]])}
    with _exported(done.network, judge[0], channels=1) as folder:
        for count in CALIBRATIONS:
            report = _added(folder, train[0][:count], judge, 1)
            figures |= {
                f"{name}: accuracy lost, {count} images": spread([report.accuracy_loss]),
                f"{name}: same label, {count} images": spread([report.agreement]),
            }
    return figures


def _added(folder: Path, calibration: NDArray[np.uint8], judge: Samples, max_loss: float) -> Reduced:
    verdict = quantise.add(folder, calibration, judge, max_loss)["int8"]
    if not verdict.accepted:
        raise AssertionError(f"lost {verdict.report.accuracy_loss} of accuracy")
    return verdict.report


@contextmanager
def _exported(network: nn.Module, sample: NDArray[np.uint8], channels: int = 3) -> Iterator[Path]:
    info = BundleInfo(
        architecture="benched",
        labels=tuple("0123456789"),
        image_size=sample.shape[1],
        channels=channels,
        dataset_version="",
        run_id="",
        code_version="",
        seed=0,
        class_shares={},
        files={},
    )
    with tempfile.TemporaryDirectory() as folder:
        export.export(network, info, sample, Path(folder))
        yield Path(folder)


def _digits() -> tuple[Samples, Samples]:
    limits = images.Limits(10**6, 10**6)
    pixels = np.stack([images.decode(data, SIDE, 1, limits) for _, data in digits()])
    labels = np.asarray([int(label) for label, _ in digits()], np.int64)
    third = np.arange(len(labels)) % 3 == 0
    return (pixels[~third], labels[~third]), (pixels[third], labels[third])
