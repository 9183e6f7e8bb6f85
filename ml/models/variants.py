"""Selects the variant of a bundle to serve on this host: the fastest that passes the golden probes here.

Probes are always checked on this host, whatever was verified elsewhere. The speed of a variant depends on the
processor's instructions: INT8 gains much with VNNI and little without. So the speed measured in training is valid only
for the same runtime and instruction set; otherwise it is measured once and stored beside the bundle, so that all
workers of a host choose the same variant.
"""

import fcntl
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from pydantic import Field, TypeAdapter

from ml.errors import IntegrityError
from ml.imaging.images import Pixels
from ml.models import bundle, model, runtimes
from ml.models.bundle import Variant, VariantSetting
from ml.models.model import Model, VariantStatus

MIN_SPEEDUP: Final = 1.1
"""Minimum speedup over fp32 on this host for a variant to be selected automatically."""
_ROUNDS: Final = 30
_SECONDS: Final = 0.3
_SPEEDS: Final = TypeAdapter(dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]])

log = logging.getLogger(__name__)


def load_proven(
    folder: Path, tolerance: float, threads: int = 1, variant: VariantSetting = "auto", runtime: str = "auto"
) -> Model:
    """Load the variant of a fetched bundle to serve on this host, verified by its probes.

    If a variant cannot be loaded here or fails its probes, the next runtime is tried, and finally fp32: processors
    without instructions for a variant do not support it, or saturate.

    Args:
        threads: number of compute threads.
        variant: `fp32`, `bf16` or `int8`, used if it passes its probes; `auto`: the fastest above `MIN_SPEEDUP`.
        runtime: `auto`, `onnxruntime` or `openvino`.

    Raises:
        IntegrityError: fp32 cannot be loaded or fails its probes.
    """
    selector = _VariantSelector(folder, tolerance, threads, runtime)
    if variant == "auto":
        chosen = selector.fastest() or selector.fp32()
    else:
        chosen = (selector.load_variant(variant) if variant in selector.reduced else None) or selector.fp32()
    return replace(chosen, variants=selector.statuses(chosen, variant))


def speedup(exact: Model, reduced: Model, image: Pixels, seconds: float) -> float:
    """Time of one image at fp32 over that of the variant.

    The minimum of interleaved runs, which other load on the host disturbs least.

    Args:
        image: ``uint8[1, size, size, channels]``.
        seconds: approximate time limit of the measurement.
    """
    best = [math.inf, math.inf]
    end = time.perf_counter() + seconds
    for number in range(_ROUNDS + 1):
        for i, loaded in enumerate((exact, reduced)):
            begin = time.perf_counter()
            loaded.predict(image)
            if number:  # the first run also allocates
                best[i] = min(best[i], time.perf_counter() - begin)
        if number and time.perf_counter() > end:
            break
    return best[0] / best[1]


class _VariantSelector:
    """Tries the variants of a bundle on this host, and keeps refusals and speeds."""

    def __init__(self, folder: Path, tolerance: float, threads: int, runtime: str) -> None:
        self._folder, self._tolerance, self._threads, self._runtime = folder, tolerance, threads, runtime
        self._info = bundle.parse((folder / bundle.INFO).read_bytes())
        self.reduced = self._info.reduced()
        self._fp32: Model | None = None
        self._refused: dict[Variant, str] = {}
        self._speeds = self._known_speeds()

    def fastest(self) -> Model | None:
        """The fastest variant that passes its probes and reaches `MIN_SPEEDUP`; None: serve fp32.

        A variant with a known speed is tried only if it would be the fastest; with an unknown speed always.
        """
        best_model, best_speed = None, MIN_SPEEDUP
        for variant in sorted(self.reduced, key=lambda v: -self._speeds.get(v, math.inf)):
            if self._speeds.get(variant, math.inf) < best_speed or (loaded := self.load_variant(variant)) is None:
                continue
            speed = self._speeds[variant] = self._measure_speed(loaded)
            if speed >= best_speed:
                best_model, best_speed = loaded, speed
        return best_model

    def fp32(self) -> Model:
        """fp32; falls back to ONNX Runtime, which runs on every processor."""
        if self._fp32 is None:
            names = dict.fromkeys((*runtimes.candidates("fp32", self._runtime), "onnxruntime"))
            self._fp32 = self._load_first("fp32", list(names))
        return self._fp32

    def load_variant(self, variant: Variant) -> Model | None:
        """Load a variant; None if no runtime passes its probes here."""
        try:
            return self._load_first(variant, runtimes.candidates(variant, self._runtime))
        except IntegrityError as error:
            self._refused[variant] = str(error)
            return None

    def statuses(self, chosen: Model, setting: VariantSetting) -> tuple[VariantStatus, ...]:
        """The status of each variant, for display."""
        return tuple(self._status(variant, chosen, setting) for variant in self._info.variants())

    def _status(self, variant: Variant, chosen: Model, setting: VariantSetting) -> VariantStatus:
        speed = self._speeds.get(variant)
        proven_on = self.reduced[variant].proven_on if variant in self.reduced else self._info.proven_on
        if variant == chosen.variant:
            return VariantStatus(variant, "serving", "", speed, proven_on)
        if variant in self._refused:
            return VariantStatus(variant, "refused", self._refused[variant], speed, proven_on)
        if setting != "auto":
            reason = f"{setting} is asked for"
        elif speed is None:
            reason = f"{chosen.variant} is faster"
        elif speed < MIN_SPEEDUP:
            reason = f"{speed:.2f} times as fast as fp32 here, {MIN_SPEEDUP:g} is needed"
        else:
            reason = f"{speed:.2f} times as fast as fp32 here, {chosen.variant} is faster"
        return VariantStatus(variant, "available", reason, speed, proven_on)

    def _load_first(self, variant: Variant, names: "tuple[runtimes.Name, ...] | list[runtimes.Name]") -> Model:
        refused = []
        for name in names:
            try:
                loaded = model.load(self._folder, self._threads, variant, name)
                model.check_probes(loaded, self._folder, self._tolerance)
                return loaded
            except IntegrityError as error:
                refused.append(f"by {runtimes.describe(name)}: {error}")
                log.warning("variant %s is not used on this host %s", variant, refused[-1])
        raise IntegrityError("; ".join(refused) or f"{self._runtime} does not compute {variant}")

    def _known_speeds(self) -> dict[Variant, float]:
        """Known speeds on this host, for each variant by the first runtime with one."""
        if not self.reduced:
            return {}
        with _speeds_file(self._folder) as measured:
            speeds_by_variant = {
                variant: [
                    speed
                    for name in runtimes.candidates(variant, self._runtime)
                    if (speed := self._stored_speed(variant, runtimes.describe(name), measured)) is not None
                ]
                for variant in self.reduced
            }
        return {variant: speeds[0] for variant, speeds in speeds_by_variant.items() if speeds}

    def _stored_speed(self, variant: Variant, place: str, measured: dict[str, float]) -> float | None:
        report = self.reduced[variant]
        return report.speedup if report.measured_on == place else measured.get(f"{variant} by {place}")

    def _measure_speed(self, loaded: Model) -> float:
        """The stored speed, or else measure and store it; the first worker of the host measures."""
        place = runtimes.describe(loaded.runtime.name)
        with _speeds_file(self._folder) as measured:
            speed = self._stored_speed(loaded.variant, place, measured)
            if speed is None:
                image = np.zeros((1, self._info.image_size, self._info.image_size, self._info.channels), np.uint8)
                speed = round(
                    speedup(self._single_threaded(self.fp32()), self._single_threaded(loaded), image, _SECONDS), 3
                )
                measured[f"{loaded.variant} by {place}"] = speed
                log.info("%s by %s is %g times as fast as fp32", loaded.variant, place, speed)
        return speed

    def _single_threaded(self, loaded: Model) -> Model:
        """The model on one thread, as in the service."""
        return loaded if self._threads == 1 else model.load(self._folder, 1, loaded.variant, loaded.runtime.name)


@contextmanager
def _speeds_file(folder: Path) -> Iterator[dict[str, float]]:
    """The stored speeds of the bundle on this host, under a file lock; changes are saved at the end.

    If the folder is read-only, each process measures separately.
    """
    try:
        fd = os.open(folder / bundle.SPEEDS, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        log.info("speeds are not stored: %s", error)
        yield {}
        return
    with os.fdopen(fd, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        text = file.read()
        try:
            speeds = _SPEEDS.validate_json(text)
        except ValueError:  # new or truncated
            speeds = {}
        yield speeds
        data = _SPEEDS.dump_json(speeds, indent=1).decode()
        if data != text:
            file.seek(0)
            file.truncate()
            file.write(data)
