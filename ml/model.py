"""A bundle that answers: a runtime over a verified bundle. Used by the service and the gate."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ml import bundle, runtimes
from ml.bundle import BundleInfo, Variant
from ml.errors import IntegrityError
from ml.familiarity import Familiarity
from ml.images import Pixels
from ml.runtimes import Runtime

log = logging.getLogger(__name__)

SLACK: Final[dict[Variant, int]] = {"fp32": 1, "bf16": 20, "int8": 20}
"""Times the tolerance for a variant's probes: a value that is rounded the other way moves by a whole step."""
_LAST: Final[tuple[Variant, runtimes.Name]] = ("fp32", "onnxruntime")
"""Runs on every processor."""


@dataclass(frozen=True)
class Model:
    """A loaded bundle; immutable, so that one reference is one whole model."""

    info: BundleInfo
    runtime: Runtime
    variant: Variant = "fp32"

    familiarity: Familiarity | None = None

    def judge(self, images: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """As `predict`, with ``float32[N]`` distances from the training set, None where the bundle cannot tell."""
        logits, features = self.runtime.outputs(images)
        told = self.familiarity.distances(features) if self.familiarity and features is not None else None
        return bundle.probabilities(logits, self.info.temperature), told

    def predict(self, images: Pixels) -> NDArray[np.float32]:
        """Calibrated probabilities ``float32[N, classes]`` of ``uint8[N, size, size, channels]``."""
        return bundle.probabilities(self.runtime.logits(images), self.info.temperature)


def load(folder: Path, threads: int = 1, variant: str = "auto", runtime: str = "auto") -> Model:
    """The model of a fetched bundle folder, by the first runtime that takes it.

    Args:
        threads: that compute at once.
        variant: `auto`, `fp32`, `bf16` or `int8`; a bundle without that one gives fp32.
        runtime: `auto`, `onnxruntime` or `openvino`.

    Raises:
        IntegrityError: no runtime takes the file, or its shapes are not the bundle's.
    """
    info = _info(folder)
    chosen = info.variant(variant)
    return _first(folder, info, [(chosen, name) for name in runtimes.able(chosen, runtime)], threads, None)


def load_proven(
    folder: Path, tolerance: float, threads: int = 1, variant: str = "auto", runtime: str = "auto"
) -> Model:
    """The model of a fetched bundle folder, proven by its probes.

    A variant that cannot be loaded or answers otherwise than where it was made gives way to the next runtime
    and in the end to fp32: processors without instructions for it saturate, or have none.

    Raises:
        IntegrityError: as `load` and `check_probes`, of fp32.
    """
    info = _info(folder)
    chosen = info.variant(variant)
    order: list[Variant] = [chosen] if chosen == "fp32" else [chosen, "fp32"]
    tries = [(v, name) for v in order for name in runtimes.able(v, runtime)]
    tries = [one for one in tries if one != _LAST] + [_LAST]
    return _first(folder, info, tries, threads, tolerance)


def check_probes(model: Model, folder: Path, tolerance: float) -> None:
    """Run the golden probes.

    Raises:
        IntegrityError: it cannot run, or a probability is not finite or further than `tolerance` from the
            recorded one.
    """
    _, file = bundle.FILES[model.variant]
    tolerance *= SLACK[model.variant]
    images, expected = bundle.load_probes((folder / file).read_bytes())
    try:
        # One by one, as it answers: ONNX Runtime keeps the memory of the largest batch it ever saw.
        found = np.concatenate([model.predict(images[i : i + 1]) for i in range(len(images))])
    except Exception as error:  # runtimes and numpy raise types of their own on a bundle that does not fit
        raise IntegrityError(f"the model cannot run: {type(error).__name__}: {error}") from error
    worst = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")
    if not np.isfinite(found).all() or not worst <= tolerance:  # a NaN among the recorded ones compares as False
        raise IntegrityError(f"golden probes differ by up to {worst:.6g}, at most {tolerance:g} is allowed")


def _info(folder: Path) -> BundleInfo:
    return bundle.parse((folder / bundle.INFO).read_bytes())


def _first(
    folder: Path, info: BundleInfo, tries: list[tuple[Variant, runtimes.Name]], threads: int, tolerance: float | None
) -> Model:
    """The first that loads and, with a tolerance, passes its probes; what the last one says if none does."""
    *others, (last, by) = tries
    for variant, name in others:
        try:
            return _one(folder, info, variant, name, threads, tolerance)
        except IntegrityError as error:
            log.warning("%s by %s does not work on this host, the next is tried: %s", variant, name, error)
    return _one(folder, info, last, by, threads, tolerance)


def _one(
    folder: Path, info: BundleInfo, variant: Variant, name: runtimes.Name, threads: int, tolerance: float | None
) -> Model:
    file, _ = bundle.FILES[variant]
    runtime = runtimes.load(name, folder / file, variant, threads)
    expected = ["images", info.image_size, info.image_size, info.channels, len(info.labels)]
    if runtime.takes != expected:
        raise IntegrityError(f"{file} takes and gives {runtime.takes}, the bundle says {expected}")
    known = Familiarity.read((folder / bundle.FEATURES).read_bytes()) if bundle.FEATURES in info.files else None
    loaded = Model(info, runtime, variant, known)
    if tolerance is not None:
        check_probes(loaded, folder, tolerance)
    return loaded
