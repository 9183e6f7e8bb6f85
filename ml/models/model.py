"""A loaded model: a runtime over a verified bundle. Used by the service and the gate."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from ml.errors import IntegrityError
from ml.imaging.images import Pixels
from ml.models import bundle, runtimes
from ml.models.bundle import BundleInfo, Variant
from ml.models.ood import OODDetector
from ml.models.runtimes import Runtime

SLACK: Final[dict[Variant, int]] = {"fp32": 1, "bf16": 20, "int8": 20}
"""Factor on the tolerance for a variant's probes: one different rounding moves a value by a whole step."""


@dataclass(frozen=True)
class VariantStatus:
    """The status of a bundle's variant on this host.

    Attributes:
        status: `available` variants are not used here; their probes are checked only before they serve.
        reason: why it is not served; empty for the served one.
        speedup: over fp32 on this host, for one image on one thread; None if unknown.
    """

    variant: Variant
    status: Literal["serving", "available", "refused"]
    reason: str
    speedup: float | None
    proven_on: tuple[str, ...]


@dataclass(frozen=True)
class Model:
    """A loaded bundle; immutable, so that swapping one reference swaps the whole model.

    Attributes:
        variants: status of all variants of the bundle, if the model was selected by `ml.models.variants`.
    """

    info: BundleInfo
    runtime: Runtime
    variant: Variant = "fp32"
    familiarity: OODDetector | None = None
    variants: tuple[VariantStatus, ...] = ()

    def predict_with_distances(self, images: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Like `predict`, with distances from the training set ``float32[N]``; None if the bundle has no detector."""
        logits, features = self.runtime.outputs(images)
        distances = self.familiarity.distances(features) if self.familiarity and features is not None else None
        return bundle.probabilities(logits, self.info.temperature), distances

    def predict(self, images: Pixels) -> NDArray[np.float32]:
        """Calibrated probabilities ``float32[N, classes]`` of ``uint8[N, size, size, channels]``."""
        return bundle.probabilities(self.runtime.logits(images), self.info.temperature)


def load(folder: Path, threads: int = 1, variant: Variant = "fp32", runtime: str = "auto") -> Model:
    """Load one variant of a fetched bundle with the first runtime that supports it; probes are not checked.

    Args:
        threads: number of compute threads.
        runtime: `auto`, `onnxruntime` or `openvino`.

    Raises:
        IntegrityError: the bundle has no such variant, no runtime supports it, or its shapes do not match the bundle.
    """
    info = bundle.parse((folder / bundle.INFO).read_bytes())
    if variant not in info.variants():
        raise IntegrityError(f"the bundle has no {variant}, only {', '.join(info.variants())}")
    refused = []
    for name in runtimes.candidates(variant, runtime):
        try:
            return _load_with(name, folder, info, variant, threads)
        except IntegrityError as error:
            refused.append(str(error))
    raise IntegrityError("; ".join(refused) or f"{runtime} does not compute {variant}")


def check_probes(model: Model, folder: Path, tolerance: float) -> None:
    """Run the golden probes and compare with the recorded probabilities.

    Raises:
        IntegrityError: it cannot run, or a probability is not finite or further than `tolerance` from the
            recorded one.
    """
    _, file = bundle.FILES[model.variant]
    tolerance *= SLACK[model.variant]
    images, expected = bundle.load_probes((folder / file).read_bytes())
    try:
        # One image at a time, as in serving: ONNX Runtime keeps the memory of the largest batch it has run.
        probabilities = np.concatenate([model.predict(images[i : i + 1]) for i in range(len(images))])
    except Exception as error:  # runtimes and numpy raise various types for a bundle that does not fit
        raise IntegrityError(f"the model cannot run: {type(error).__name__}: {error}") from error
    max_difference = (
        float(np.abs(probabilities - expected).max()) if probabilities.shape == expected.shape else float("inf")
    )
    if (
        not np.isfinite(probabilities).all() or not max_difference <= tolerance
    ):  # a NaN among the recorded ones compares as False
        raise IntegrityError(f"golden probes differ by up to {max_difference:.6g}, at most {tolerance:g} is allowed")


def _load_with(name: runtimes.Name, folder: Path, info: BundleInfo, variant: Variant, threads: int) -> Model:
    file, _ = bundle.FILES[variant]
    runtime = runtimes.load(name, folder / file, variant, threads)
    expected = ["images", info.image_size, info.image_size, info.channels, len(info.labels)]
    if runtime.signature != expected:
        raise IntegrityError(f"{file} takes and gives {runtime.signature}, the bundle says {expected}")
    detector = OODDetector.read((folder / bundle.FEATURES).read_bytes()) if bundle.FEATURES in info.files else None
    return Model(info, runtime, variant, detector)
