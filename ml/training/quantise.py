"""Variants of less precision of a bundle's model, INT8 and bfloat16, kept only if they answer hardly worse.

INT8 is made by static quantisation of ONNX Runtime: the ranges of all intermediate values are observed on training
images. Convolutions, matrix products and the bounds after them are quantised; the preprocessing stays as it is.

Weights take 7 bits, -64 to 64. x86 processors without VNNI multiply unsigned by signed bytes with ``vpmaddubsw``, which
adds two products in 16 bits and saturates: 2 × 255 × 127 does not fit, 2 × 255 × 64 does (docs/decisions/0024).
"""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from ml.errors import IntegrityError
from ml.imaging.images import Pixels
from ml.models import bundle, model, runtimes, variants
from ml.models.bundle import BundleInfo, Reduced, Variant
from ml.models.model import Model
from ml.training.data.feed import Labels, Pictures

VARIANTS: Final[tuple[Variant, ...]] = ("int8", "bf16")
CALIBRATION: Final = 64
"""Images that ranges are observed on; more changed nothing that could be measured (docs/decisions/0014)."""
_BATCH: Final = 32
_JUDGED: Final = 2000
_TIMED_SECONDS: Final = 1.0
_QUANTISED: Final = ("Conv", "Gemm", "MatMul", "Relu", "Clip")
"""Without the bounds a network goes to floats and back after each convolution (docs/decisions/0014)."""
_UNPROVEN: Final = Reduced(samples=1, accuracy_loss=0, agreement=1, speedup=1)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VariantVerdict:
    """How a variant compares with fp32, and whether the bundle has it now."""

    report: Reduced
    kept: bool


def add(
    folder: Path, calibration: Pixels, judge: tuple[Pictures, Labels], max_loss: float, tolerance: float = 1e-3
) -> dict[Variant, VariantVerdict]:
    """Add INT8 and bf16 to the finished bundle in `folder`, if their accuracy allows.

    Args:
        calibration: ``uint8[N, size, size, channels]`` training images, N ≥ 1, `CALIBRATION` will do.
        judge: images and ``int64[N]`` labels that accuracy is compared on, N ≥ 1.
        max_loss: share of them by which a variant may be right less often.
        tolerance: of probes, as of `model.check_probes`, where a variant is proven by its other runtimes.

    Returns:
        What was found of each that this machine can make and run.
    """
    info = bundle.parse((folder / bundle.INFO).read_bytes())
    with tempfile.TemporaryDirectory() as scratch:
        trial = Path(scratch)
        shutil.copy(folder / bundle.MODEL, trial)
        bundle.write(trial, info.model_copy(update={"int8": _UNPROVEN, "bf16": _UNPROVEN}))
        verdicts: dict[Variant, VariantVerdict] = {}
        compared = _Compared(model.load(trial, variant="fp32"), *judge)
        for variant in VARIANTS:
            if (reduced := _made(trial, variant, calibration)) is None:
                continue
            report = compared.with_(reduced)
            verdict = VariantVerdict(report, kept=report.accuracy_loss <= max_loss)
            if verdict.kept:
                info = _keep(folder, trial, reduced, info, report, tolerance)
                verdict = VariantVerdict(info.reduced()[variant], kept=True)
            verdicts[variant] = verdict
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


def _keep(folder: Path, trial: Path, reduced: Model, info: BundleInfo, report: Reduced, tolerance: float) -> BundleInfo:
    file, probes = bundle.FILES[reduced.variant]
    images, _ = bundle.load_probes((folder / bundle.PROBES).read_bytes())
    np.savez(folder / probes, images=images, probabilities=reduced.predict(images))
    if not (folder / file).exists():
        shutil.copy(trial / file, folder)
    bundle.write(folder, info.model_copy(update={reduced.variant: report}))
    proven = report.model_copy(update={"proven_on": tuple(_proven_on(folder, reduced.variant, tolerance))})
    info = info.model_copy(update={reduced.variant: proven})
    bundle.write(folder, info)
    return info


def _proven_on(folder: Path, variant: Variant, tolerance: float) -> Iterator[str]:
    """Runtimes that answer the variant's probes rightly on this machine."""
    for name in runtimes.able(variant):
        try:
            model.check_probes(model.load(folder, 1, variant, name), folder, tolerance)
            yield runtimes.place(name)
        except IntegrityError as error:
            log.warning("%s is not proven on %s: %s", variant, runtimes.place(name), error)


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
        reduce_range=True,  # 7 bits: see the module's docstring
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    prepared.unlink()


class _Compared:
    """fp32's answers on the judged images, which every variant is compared with."""

    def __init__(self, exact: Model, images: Pictures, labels: Labels) -> None:
        self._picked = np.unique(np.linspace(0, len(images) - 1, min(_JUDGED, len(images))).astype(int))
        self._exact, self._images, self._labels = exact, images, labels[self._picked]
        self._one = np.ascontiguousarray(images[:1])
        self._expected = _answers(exact, images, self._picked)

    def with_(self, reduced: Model) -> Reduced:
        found = _answers(reduced, self._images, self._picked)
        loss = float((self._expected == self._labels).mean() - (found == self._labels).mean())
        return Reduced(
            samples=len(self._picked),
            accuracy_loss=round(loss, 6),
            agreement=round(float((self._expected == found).mean()), 6),
            speedup=round(variants.speedup(self._exact, reduced, self._one, _TIMED_SECONDS), 3),
            measured_on=runtimes.place(reduced.runtime.name),
        )


def _answers(loaded: Model, images: Pictures, picked: Labels) -> Labels:
    parts = [picked[i : i + _BATCH] for i in range(0, len(picked), _BATCH)]
    return np.concatenate([loaded.predict(np.ascontiguousarray(images[part])).argmax(1) for part in parts])
