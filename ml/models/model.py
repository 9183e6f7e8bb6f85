"""A bundle that answers: a runtime over a verified bundle. Used by the service and the gate."""

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
"""Times the tolerance for a variant's probes: a value that is rounded the other way moves by a whole step."""


@dataclass(frozen=True)
class Standing:
    """What this host makes of a variant in the bundle.

    Attributes:
        status: `available` is one that is not needed here; it is proven when it is to answer.
        reason: why it does not answer, empty for the one that does.
        speedup: times as fast as fp32 on this host, for one image on one thread; None where that is not known.
    """

    variant: Variant
    status: Literal["serving", "available", "refused"]
    reason: str
    speedup: float | None
    proven_on: tuple[str, ...]


@dataclass(frozen=True)
class Model:
    """A loaded bundle; immutable, so that one reference is one whole model.

    Attributes:
        variants: of a model that was chosen among its bundle's variants (`ml.models.variants`), what became of each.
    """

    info: BundleInfo
    runtime: Runtime
    variant: Variant = "fp32"
    familiarity: OODDetector | None = None
    variants: tuple[Standing, ...] = ()

    def judge(self, images: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """As `predict`, with ``float32[N]`` distances from the training set, None where the bundle cannot tell."""
        logits, features = self.runtime.outputs(images)
        told = self.familiarity.distances(features) if self.familiarity and features is not None else None
        return bundle.probabilities(logits, self.info.temperature), told

    def predict(self, images: Pixels) -> NDArray[np.float32]:
        """Calibrated probabilities ``float32[N, classes]`` of ``uint8[N, size, size, channels]``."""
        return bundle.probabilities(self.runtime.logits(images), self.info.temperature)


def load(folder: Path, threads: int = 1, variant: Variant = "fp32", runtime: str = "auto") -> Model:
    """One variant of a fetched bundle folder, by the first runtime that takes it; nothing is proven.

    Args:
        threads: that compute at once.
        runtime: `auto`, `onnxruntime` or `openvino`.

    Raises:
        IntegrityError: the bundle has no such variant, no runtime takes it, or its shapes are not the bundle's.
    """
    info = bundle.parse((folder / bundle.INFO).read_bytes())
    if variant not in info.variants():
        raise IntegrityError(f"the bundle has no {variant}, only {', '.join(info.variants())}")
    refused = []
    for name in runtimes.able(variant, runtime):
        try:
            return _by(name, folder, info, variant, threads)
        except IntegrityError as error:
            refused.append(str(error))
    raise IntegrityError("; ".join(refused) or f"{runtime} does not compute {variant}")


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


def _by(name: runtimes.Name, folder: Path, info: BundleInfo, variant: Variant, threads: int) -> Model:
    file, _ = bundle.FILES[variant]
    runtime = runtimes.load(name, folder / file, variant, threads)
    expected = ["images", info.image_size, info.image_size, info.channels, len(info.labels)]
    if runtime.takes != expected:
        raise IntegrityError(f"{file} takes and gives {runtime.takes}, the bundle says {expected}")
    known = OODDetector.read((folder / bundle.FEATURES).read_bytes()) if bundle.FEATURES in info.files else None
    return Model(info, runtime, variant, known)
