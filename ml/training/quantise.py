"""Reduced-precision variants of a bundle's model, INT8 and bfloat16, kept only if they lose little accuracy.

INT8 uses static quantisation by ONNX Runtime, which calibrates the ranges of all activations on training images.
Convolutions, matrix products and the activations after them are quantised; the preprocessing is not.

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
from ml.training.data.feed import ImageArray, Labels

VARIANTS: Final[tuple[Variant, ...]] = ("int8", "bf16")
CALIBRATION: Final = 64
"""Calibration images; more made no measurable difference (docs/decisions/0014)."""
_BATCH: Final = 32
_EVALUATION_SAMPLES: Final = 2000
_TIMED_SECONDS: Final = 1.0
_QUANTISED_OPS: Final = ("Conv", "Gemm", "MatMul", "Relu", "Clip")
"""Without Relu and Clip, values are converted to float and back after each convolution (docs/decisions/0014)."""
_UNPROVEN: Final = Reduced(samples=1, accuracy_loss=0, agreement=1, speedup=1)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VariantVerdict:
    """How a variant compares with fp32, and whether it was added to the bundle."""

    report: Reduced
    accepted: bool


def add(
    folder: Path, calibration: Pixels, judge: tuple[ImageArray, Labels], max_loss: float, tolerance: float = 1e-3
) -> dict[Variant, VariantVerdict]:
    """Add INT8 and bf16 to the finished bundle in `folder` if they lose at most `max_loss` accuracy.

    Args:
        calibration: ``uint8[N, size, size, channels]`` training images, N ≥ 1; `CALIBRATION` of them are enough.
        judge: images and ``int64[N]`` labels of the samples to compare accuracy on, N ≥ 1.
        max_loss: accuracy that a variant may lose, as a share.
        tolerance: probe tolerance (`model.check_probes`) when other runtimes are verified.

    Returns:
        A verdict for each variant that this machine can build and run.
    """
    info = bundle.parse((folder / bundle.INFO).read_bytes())
    with tempfile.TemporaryDirectory() as scratch:
        trial = Path(scratch)
        shutil.copy(folder / bundle.MODEL, trial)
        bundle.write(trial, info.model_copy(update={"int8": _UNPROVEN, "bf16": _UNPROVEN}))
        verdicts: dict[Variant, VariantVerdict] = {}
        baseline = _Fp32Baseline(model.load(trial, variant="fp32"), *judge)
        for variant in VARIANTS:
            if (reduced := _build_variant(trial, variant, calibration)) is None:
                continue
            report = baseline.compare(reduced)
            verdict = VariantVerdict(report, accepted=report.accuracy_loss <= max_loss)
            if verdict.accepted:
                info = _add_to_bundle(folder, trial, reduced, info, report, tolerance)
                verdict = VariantVerdict(info.reduced()[variant], accepted=True)
            verdicts[variant] = verdict
            log.info("%s by %s: %s, at most a loss of %g is allowed", variant, reduced.runtime.name, verdict, max_loss)
    return verdicts


def _build_variant(trial: Path, variant: Variant, calibration: Pixels) -> Model | None:
    """The variant's model; None if this machine cannot build or run it."""
    try:
        if variant == "int8":
            quantise(trial / bundle.MODEL, trial / bundle.INT8_MODEL, calibration)
        return model.load(trial, variant=variant)
    except IntegrityError as error:
        log.info("variant %s is skipped: %s", variant, error)
    except Exception:  # onnxruntime raises its own exception types for graphs it cannot quantise
        log.exception("variant %s cannot be built from this network", variant)
    return None


def _add_to_bundle(
    folder: Path, trial: Path, reduced: Model, info: BundleInfo, report: Reduced, tolerance: float
) -> BundleInfo:
    file, probes = bundle.FILES[reduced.variant]
    images, _ = bundle.load_probes((folder / bundle.PROBES).read_bytes())
    np.savez(folder / probes, images=images, probabilities=reduced.predict(images))
    if not (folder / file).exists():
        shutil.copy(trial / file, folder)
    bundle.write(folder, info.model_copy(update={reduced.variant: report}))
    updated = report.model_copy(update={"proven_on": tuple(_proven_on(folder, reduced.variant, tolerance))})
    info = info.model_copy(update={reduced.variant: updated})
    bundle.write(folder, info)
    return info


def _proven_on(folder: Path, variant: Variant, tolerance: float) -> Iterator[str]:
    """Runtimes that pass the variant's probes on this machine."""
    for name in runtimes.candidates(variant):
        try:
            model.check_probes(model.load(folder, 1, variant, name), folder, tolerance)
            yield runtimes.describe(name)
        except IntegrityError as error:
            log.warning("%s is not proven on %s: %s", variant, runtimes.describe(name), error)


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
    # Without it, weights shared between layers keep most convolutions in float: four times slower.
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(target),
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(_QUANTISED_OPS),
        per_channel=True,
        reduce_range=True,  # 7 bits: see the module's docstring
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    prepared.unlink()


class _Fp32Baseline:
    """Predictions of fp32 on the evaluation images, the baseline for every variant."""

    def __init__(self, exact: Model, images: ImageArray, labels: Labels) -> None:
        self._positions = np.unique(np.linspace(0, len(images) - 1, min(_EVALUATION_SAMPLES, len(images))).astype(int))
        self._exact, self._images, self._labels = exact, images, labels[self._positions]
        self._single_image = np.ascontiguousarray(images[:1])
        self._expected = _predicted_classes(exact, images, self._positions)

    def compare(self, reduced: Model) -> Reduced:
        predictions = _predicted_classes(reduced, self._images, self._positions)
        loss = float((self._expected == self._labels).mean() - (predictions == self._labels).mean())
        return Reduced(
            samples=len(self._positions),
            accuracy_loss=round(loss, 6),
            agreement=round(float((self._expected == predictions).mean()), 6),
            speedup=round(variants.speedup(self._exact, reduced, self._single_image, _TIMED_SECONDS), 3),
            measured_on=runtimes.describe(reduced.runtime.name),
        )


def _predicted_classes(loaded: Model, images: ImageArray, positions: Labels) -> Labels:
    parts = [positions[i : i + _BATCH] for i in range(0, len(positions), _BATCH)]
    return np.concatenate([loaded.predict(np.ascontiguousarray(images[part])).argmax(1) for part in parts])
