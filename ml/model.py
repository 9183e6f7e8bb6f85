"""A bundle that answers: ONNX Runtime over a verified bundle. Used by the service and the gate."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ml import bundle
from ml.bundle import BundleInfo, Variant
from ml.errors import IntegrityError
from ml.images import Pixels

log = logging.getLogger(__name__)

INT8_SLACK: Final = 20
"""Times the tolerance for INT8's probes: a value that is rounded the other way moves by a whole step."""


@dataclass(frozen=True)
class Model:
    """A loaded bundle; immutable, so that one reference is one whole model."""

    info: BundleInfo
    session: ort.InferenceSession
    variant: Variant = "fp32"

    def predict(self, images: Pixels) -> NDArray[np.float32]:
        """Calibrated probabilities ``float32[N, classes]`` of ``uint8[N, size, size, channels]``."""
        (logits,) = self.session.run(None, {"images": images})
        return bundle.probabilities(logits, self.info.temperature)


def load(folder: Path, threads: int = 1, variant: str = "auto") -> Model:
    """The model of a fetched bundle folder.

    Args:
        variant: `auto`, `fp32` or `int8`; a bundle without INT8 gives fp32.

    Raises:
        IntegrityError: ONNX Runtime refuses the file, or its shapes are not the bundle's.
    """
    info = bundle.parse((folder / bundle.INFO).read_bytes())
    chosen = info.variant(variant)
    file, _ = bundle.FILES[chosen]
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(str(folder / file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen unrelated types of its own
        raise IntegrityError(f"{file} cannot be loaded: {error}") from error
    (images, *_), (logits, *_) = session.get_inputs(), session.get_outputs()
    expected = ([info.image_size, info.image_size, info.channels], len(info.labels))
    found = (list(images.shape[1:]), logits.shape[-1])
    if images.name != "images" or found != expected:
        raise IntegrityError(f"{file} takes and gives {found}, the bundle says {expected}")
    return Model(info, session, chosen)


def load_proven(folder: Path, tolerance: float, threads: int = 1, variant: str = "auto") -> Model:
    """The model of a fetched bundle folder, proven by its probes.

    INT8 that cannot be loaded or answers otherwise than where it was made gives way to fp32:
    processors without instructions for it saturate.

    Raises:
        IntegrityError: as `load` and `check_probes`, of fp32.
    """
    try:
        return _proven(folder, tolerance, threads, variant)
    except IntegrityError as error:
        if bundle.parse((folder / bundle.INFO).read_bytes()).variant(variant) == "fp32":
            raise
        log.warning("fp32 answers in the place of INT8, which does not work on this host: %s", error)
        return _proven(folder, tolerance, threads, "fp32")


def _proven(folder: Path, tolerance: float, threads: int, variant: str) -> Model:
    loaded = load(folder, threads, variant)
    check_probes(loaded, folder, tolerance)
    return loaded


def check_probes(model: Model, folder: Path, tolerance: float) -> None:
    """Run the golden probes.

    Raises:
        IntegrityError: it cannot run, or a probability is not finite or further than `tolerance` from the
            recorded one.
    """
    _, file = bundle.FILES[model.variant]
    if model.variant == "int8":
        tolerance *= INT8_SLACK
    images, expected = bundle.load_probes((folder / file).read_bytes())
    try:
        found = model.predict(images)
    except Exception as error:  # onnxruntime and numpy raise types of their own on a bundle that does not fit
        raise IntegrityError(f"the model cannot run: {type(error).__name__}: {error}") from error
    worst = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")
    if not np.isfinite(found).all() or not worst <= tolerance:  # a NaN among the recorded ones compares as False
        raise IntegrityError(f"golden probes differ by up to {worst:.6g}, at most {tolerance:g} is allowed")
