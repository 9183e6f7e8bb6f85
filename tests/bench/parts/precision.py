"""What reduced precision costs in accuracy: MobileNetV2 on CIFAR-10's 5,000 test photos, which it never saw.

It is trained on the others at 64 pixels for some minutes, once: `build/bench` keeps the bundle.
"""

import os
import tarfile
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ml.imaging import images
from ml.models import bundle, model
from ml.models.bundle import Variant
from tests.bench.parts import services
from tests.bench.parts.described import described
from tests.bench.report import spread

FOLDER: Final = Path(os.environ.pop("EVERGREEN_BENCH_CIFAR10_FOLDER", "../shared/data/cifar10"))
KEPT: Final = Path("build/bench/mobilenet_v2-cifar10")
SIDE: Final = 64
_SEEN: Final = 12_500
_EPOCHS: Final = 5
_BATCH: Final = 100
_LIMITS: Final = images.Limits(10**6, 10**6)

Samples = tuple[NDArray[np.uint8], NDArray[np.int64]]


def figures() -> tuple[dict[str, Any], list[str]]:
    """Accuracy by variant, and what is lost, in points; by the runtime that the service would take.

    Returns:
        Figures, and what does not answer here, with the reason.

    Raises:
        FileNotFoundError: the images are not there.
    """
    judge = _photos(FOLDER / "test.tar", 10**9)
    if not (KEPT / bundle.INFO).exists():
        _train(judge)
    results: dict[str, Any] = {}
    exact = _accuracy("fp32", judge)
    results["accuracy at fp32, %"] = spread([exact])
    missing = services.missing(KEPT)
    for variant in services.REDUCED:
        if variant in missing:
            continue
        accuracy = _accuracy(variant, judge)
        results[f"accuracy at {variant}, %"] = spread([accuracy])
        results[f"{variant}_accuracy_lost_points"] = spread([exact - accuracy])
    return results, list(missing.values())


def _accuracy(variant: Variant, judge: Samples) -> float:
    loaded = model.load(KEPT, threads=len(os.sched_getaffinity(0)), variant=variant)
    x, y = judge
    predictions = [loaded.predict(x[i : i + _BATCH]).argmax(1) for i in range(0, len(x), _BATCH)]
    return 100 * float((np.concatenate(predictions) == y).mean())


def _train(judge: Samples) -> None:
    from ml.training import export, quantise
    from ml.training.loop.fit import fit
    from ml.training.loop.recipe import Recipe
    from ml.training.network import networks

    train = _photos(FOLDER / "train.tar", _SEEN)
    held = (train[0][::20], train[1][::20])
    recipe = Recipe(epochs=_EPOCHS, patience=_EPOCHS, batch_size=64, learning_rate=2e-3, seed=0, flips=True, threads=2)
    network = fit(networks.build("mobilenet_v2", 3, 10, SIDE, 0), train, held, recipe).network
    info = described("mobilenet_v2", _labels(), SIDE, 3)
    KEPT.mkdir(parents=True, exist_ok=True)
    export.export(network, info, train[0][:64], KEPT)
    quantise.add(KEPT, train[0][:: len(train[0]) // quantise.CALIBRATION], (judge[0][:500], judge[1][:500]), 1.0)


@cache
def _labels() -> list[str]:
    with tarfile.open(FOLDER / "test.tar") as tar:
        return sorted({m.name.split("/")[0] for m in tar if m.isfile()})


def _photos(path: Path, most: int) -> Samples:
    """About so many of the tar's photos, evenly taken, enlarged by the one way there is."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; EVERGREEN_BENCH_CIFAR10_FOLDER may name its folder")
    with tarfile.open(path) as tar:
        members = [m for m in tar if m.isfile()]
        members = members[:: max(1, len(members) // most)]
        files = [(m.name.split("/")[0], tar.extractfile(m).read()) for m in members]  # type: ignore[union-attr]
    pixels = np.stack([images.decode(data, SIDE, 3, _LIMITS) for _, data in files])
    return pixels, np.asarray([_labels().index(label) for label, _ in files], np.int64)
