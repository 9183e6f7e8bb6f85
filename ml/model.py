"""A bundle that answers: ONNX Runtime over a verified bundle. Used by the service and the gate."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ml import bundle
from ml.bundle import BundleInfo
from ml.errors import IntegrityError
from ml.images import Pixels


@dataclass(frozen=True)
class Model:
    """A loaded bundle; immutable, so that one reference is one whole model."""

    info: BundleInfo
    session: ort.InferenceSession

    def predict(self, images: Pixels) -> NDArray[np.float32]:
        """Calibrated probabilities ``float32[N, classes]`` of ``uint8[N, size, size, channels]``."""
        (logits,) = self.session.run(None, {"images": images})
        return bundle.probabilities(logits, self.info.temperature)


def load(folder: Path, threads: int = 1) -> Model:
    """The model of a fetched bundle folder.

    Raises:
        IntegrityError: ONNX Runtime refuses the file, or its shapes are not the bundle's.
    """
    info = bundle.parse((folder / bundle.INFO).read_bytes())
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(str(folder / bundle.MODEL), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen unrelated types of its own
        raise IntegrityError(f"{bundle.MODEL} cannot be loaded: {error}") from error
    (images, *_), (logits, *_) = session.get_inputs(), session.get_outputs()
    expected = ([info.image_size, info.image_size, info.channels], len(info.labels))
    found = (list(images.shape[1:]), logits.shape[-1])
    if images.name != "images" or found != expected:
        raise IntegrityError(f"{bundle.MODEL} takes and gives {found}, the bundle says {expected}")
    return Model(info, session)


def check_probes(model: Model, folder: Path, tolerance: float) -> None:
    """Run the golden probes.

    Raises:
        IntegrityError: a probability is not finite or further than `tolerance` from the recorded one.
    """
    images, expected = bundle.load_probes((folder / bundle.PROBES).read_bytes())
    found = model.predict(images)
    worst = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")
    if not np.isfinite(found).all() or not worst <= tolerance:  # a NaN among the recorded ones compares as False
        raise IntegrityError(f"golden probes differ by up to {worst:.6g}, at most {tolerance:g} is allowed")
