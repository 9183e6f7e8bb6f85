"""Variants of less precision of a bundle's model, INT8 and bfloat16, kept only if they answer hardly worse.

INT8 is made by static quantisation of ONNX Runtime: the ranges of all intermediate values are observed on training
images. Convolutions, matrix products and the bounds after them are quantised; the preprocessing stays as it is.
"""

import logging
import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from ml import bundle, model
from ml.bundle import BundleInfo, Reduced, Variant
from ml.errors import IntegrityError
from ml.images import Pixels
from ml.model import Model
from ml.training.feed import Labels, Pictures

VARIANTS: Final[tuple[Variant, ...]] = ("int8", "bf16")
CALIBRATION: Final = 64
"""Images that ranges are observed on; more changed nothing that could be measured (docs/decisions/0014)."""
_BATCH: Final = 32
_JUDGED: Final = 2000
_TIMED: Final = 30
_TIMED_SECONDS: Final = 1.0
_QUANTISED: Final = ("Conv", "Gemm", "MatMul", "Relu", "Clip")
"""Without the bounds a network goes to floats and back after each convolution (docs/decisions/0014)."""
_UNPROVEN: Final = Reduced(samples=1, accuracy_loss=0, agreement=1, speedup=1)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """How a variant compares with fp32, and whether the bundle has it now."""

    report: Reduced
    kept: bool


def add(folder: Path, calibration: Pixels, judge: tuple[Pictures, Labels], max_loss: float) -> dict[Variant, Verdict]:
    """Add INT8 and bf16 to the finished bundle in `folder`, if their accuracy allows.

    Args:
        calibration: ``uint8[N, size, size, channels]`` training images, N ≥ 1, `CALIBRATION` will do.
        judge: images and ``int64[N]`` labels that accuracy is compared on, N ≥ 1.
        max_loss: share of them by which a variant may be right less often.

    Returns:
        What was found of each that this machine can make and run.
    """
    info = bundle.parse((folder / bundle.INFO).read_bytes())
    with tempfile.TemporaryDirectory() as scratch:
        trial = Path(scratch)
        shutil.copy(folder / bundle.MODEL, trial)
        bundle.write(trial, info.model_copy(update={"int8": _UNPROVEN, "bf16": _UNPROVEN}))
        verdicts: dict[Variant, Verdict] = {}
        compared = _Compared(model.load(trial, variant="fp32"), *judge)
        for variant in VARIANTS:
            if (reduced := _made(trial, variant, calibration)) is None:
                continue
            report = compared.with_(reduced)
            verdicts[variant] = verdict = Verdict(report, kept=report.accuracy_loss <= max_loss)
            if verdict.kept:
                info = _keep(folder, trial, reduced, info, report)
            log.info("%s by %s: %s, at most a loss of %g is allowed", variant, reduced.runtime.name, verdict, max_loss)
    return verdicts


def _made(trial: Path, variant: Variant, calibration: Pixels) -> Model | None:
    """The variant's model; None where this machine cannot make or run it."""
    try:
        if variant == "int8":
            quantise(trial / bundle.MODEL, trial / bundle.INT8_MODEL, calibration)
        return model.load(trial, variant=variant)
    except IntegrityError as error:
        log.info("there will be no %s: %s", variant, error)
    except Exception:  # onnxruntime raises types of its own on a graph that it cannot quantise
        log.exception("no %s can be made of this network", variant)
    return None


def _keep(folder: Path, trial: Path, reduced: Model, info: BundleInfo, report: Reduced) -> BundleInfo:
    file, probes = bundle.FILES[reduced.variant]
    images, _ = bundle.load_probes((folder / bundle.PROBES).read_bytes())
    np.savez(folder / probes, images=images, probabilities=reduced.predict(images))
    if not (folder / file).exists():
        shutil.copy(trial / file, folder)
    info = info.model_copy(update={reduced.variant: report})
    bundle.write(folder, info)
    return info


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


class _Compared:
    """fp32's answers on the judged images, which every variant is compared with."""

    def __init__(self, exact: Model, images: Pictures, labels: Labels) -> None:
        self._picked = np.unique(np.linspace(0, len(images) - 1, min(_JUDGED, len(images))).astype(int))
        self._exact, self._images, self._labels = exact, images, labels[self._picked]
        self._expected = _answers(exact, images, self._picked)

    def with_(self, reduced: Model) -> Reduced:
        found = _answers(reduced, self._images, self._picked)
        loss = float((self._expected == self._labels).mean() - (found == self._labels).mean())
        return Reduced(
            samples=len(self._picked),
            accuracy_loss=round(loss, 6),
            agreement=round(float((self._expected == found).mean()), 6),
            speedup=round(_speedup(self._exact, reduced, self._images), 3),
        )


def _answers(loaded: Model, images: Pictures, picked: Labels) -> Labels:
    parts = [picked[i : i + _BATCH] for i in range(0, len(picked), _BATCH)]
    return np.concatenate([loaded.predict(np.ascontiguousarray(images[part])).argmax(1) for part in parts])


def _speedup(exact: Model, reduced: Model, images: Pictures) -> float:
    """For one image: the least of some runs in turns, which a busy neighbour disturbs least."""
    one, best = np.ascontiguousarray(images[:1]), [math.inf, math.inf]
    end = time.perf_counter() + _TIMED_SECONDS
    for number in range(_TIMED + 1):
        for i, loaded in enumerate((exact, reduced)):
            begin = time.perf_counter()
            loaded.predict(one)
            if number:  # the first run also allocates
                best[i] = min(best[i], time.perf_counter() - begin)
        if number and time.perf_counter() > end:
            break
    return best[0] / best[1]
