"""An 8-bit variant of a bundle's model, kept only if it answers hardly worse.

Static quantisation of ONNX Runtime: the ranges of all intermediate values are observed on training
images. Convolutions, matrix products and the bounds after them are quantised; the preprocessing stays as it is.
"""

import logging
import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from ml import bundle, model
from ml.bundle import Int8
from ml.images import Pixels
from ml.model import Model
from ml.training.feed import Labels, Pictures

CALIBRATION: Final = 64
"""Images that ranges are observed on; more changed nothing that could be measured (docs/decisions/0014)."""
_BATCH: Final = 32
_JUDGED: Final = 2000
_TIMED: Final = 30
_TIMED_SECONDS: Final = 1.0
_QUANTISED: Final = ("Conv", "Gemm", "MatMul", "Relu", "Clip")
"""Without the bounds a network goes to floats and back after each convolution (docs/decisions/0014)."""
_UNPROVEN: Final = Int8(samples=1, accuracy_loss=0, agreement=1, speedup=1)

log = logging.getLogger(__name__)


def add(folder: Path, calibration: Pixels, judge: tuple[Pictures, Labels], max_loss: float) -> tuple[Int8, bool]:
    """Add INT8 to the finished bundle in `folder`, if its accuracy allows.

    Args:
        calibration: ``uint8[N, size, size, channels]`` training images, N ≥ 1, `CALIBRATION` will do.
        judge: images and ``int64[N]`` labels that accuracy is compared on, N ≥ 1.
        max_loss: share of them by which INT8 may be right less often.

    Returns:
        How it compares, and whether it was kept.
    """
    info = bundle.parse((folder / bundle.INFO).read_bytes())
    with tempfile.TemporaryDirectory() as scratch:
        trial = Path(scratch)
        shutil.copy(folder / bundle.MODEL, trial)
        quantise(trial / bundle.MODEL, trial / bundle.INT8_MODEL, calibration)
        bundle.write(trial, info.model_copy(update={"int8": _UNPROVEN}))
        exact, small = (model.load(trial, variant=variant) for variant in ("fp32", "int8"))
        report = _compared(exact, small, *judge)
        kept = report.accuracy_loss <= max_loss
        if kept:
            images, _ = bundle.load_probes((folder / bundle.PROBES).read_bytes())
            np.savez(folder / bundle.INT8_PROBES, images=images, probabilities=small.predict(images))
            shutil.copy(trial / bundle.INT8_MODEL, folder)
            bundle.write(folder, info.model_copy(update={"int8": report}))
    log.info("INT8 is %s: %s, at most a loss of %g is allowed", "kept" if kept else "dropped", report, max_loss)
    return report, kept


def quantise(source: Path, target: Path, calibration: Pixels) -> None:
    """Write the INT8 form of the ONNX model `source` to `target`."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[dict[str, Any]] = (
                {"images": np.ascontiguousarray(calibration[i : i + _BATCH])}
                for i in range(0, len(calibration), _BATCH)
            )

        def get_next(self) -> dict[str, Any] | None:
            return next(self.batches, None)

    prepared = target.with_suffix(".prepared.onnx")
    # Without it weights shared between layers keep most convolutions from running in integers: four times slower.
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(target),
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(_QUANTISED),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    prepared.unlink()


def _compared(exact: Model, small: Model, images: Pictures, labels: Labels) -> Int8:
    picked = np.unique(np.linspace(0, len(images) - 1, min(_JUDGED, len(images))).astype(int))
    expected, found = (_answers(loaded, images, picked) for loaded in (exact, small))
    loss = float((expected == labels[picked]).mean() - (found == labels[picked]).mean())
    return Int8(
        samples=len(picked),
        accuracy_loss=round(loss, 6),
        agreement=round(float((expected == found).mean()), 6),
        speedup=round(_speedup(exact, small, images), 3),
    )


def _answers(loaded: Model, images: Pictures, picked: Labels) -> Labels:
    parts = [picked[i : i + _BATCH] for i in range(0, len(picked), _BATCH)]
    return np.concatenate([loaded.predict(np.ascontiguousarray(images[part])).argmax(1) for part in parts])


def _speedup(exact: Model, small: Model, images: Pictures) -> float:
    """For one image: the least of some runs in turns, which a busy neighbour disturbs least."""
    one, best = np.ascontiguousarray(images[:1]), [math.inf, math.inf]
    end = time.perf_counter() + _TIMED_SECONDS
    for number in range(_TIMED + 1):
        for i, loaded in enumerate((exact, small)):
            begin = time.perf_counter()
            loaded.predict(one)
            if number:  # the first run also allocates
                best[i] = min(best[i], time.perf_counter() - begin)
        if number and time.perf_counter() > end:
            break
    return best[0] / best[1]
