"""Which of a bundle's variants answers on this host: the fastest that is right here.

Right is what the golden probes say on this host, whatever was proven elsewhere. How fast a variant is depends on the
instructions that a processor has: INT8 gains much with VNNI and little without. So the speed measured in training holds
for the same runtime on the same instruction sets only; anywhere else it is measured once, and kept beside the bundle,
so that all workers of a host choose alike.
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
from ml.models.bundle import Variant, Wish
from ml.models.model import Model, Standing

WORTH: Final = 1.1
"""Times as fast as fp32 on this host, from which a variant is served without being asked for."""
_ROUNDS: Final = 30
_SECONDS: Final = 0.3
_SPEEDS: Final = TypeAdapter(dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]])

log = logging.getLogger(__name__)


def load_proven(
    folder: Path, tolerance: float, threads: int = 1, variant: Wish = "auto", runtime: str = "auto"
) -> Model:
    """The model of a fetched bundle folder that should answer on this host, proven by its probes.

    A variant that cannot be loaded here, or answers otherwise than where it was made, gives way to the next runtime
    and in the end to fp32: processors without instructions for it have none, or saturate.

    Args:
        threads: that compute at once.
        variant: `fp32`, `bf16` or `int8`, which answers if it is right here; `auto`: the fastest, if that pays.
        runtime: `auto`, `onnxruntime` or `openvino`.

    Raises:
        IntegrityError: as `model.load` and `model.check_probes`, of fp32.
    """
    host = _Host(folder, tolerance, threads, runtime)
    if variant == "auto":
        chosen = host.fastest() or host.exact()
    else:
        chosen = (host.proven(variant) if variant in host.reduced else None) or host.exact()
    return replace(chosen, variants=host.standings(chosen, variant))


def speedup(exact: Model, reduced: Model, image: Pixels, seconds: float) -> float:
    """Time of one image at fp32 over that of the variant.

    Of each the least of some runs in turns, which a busy neighbour disturbs least.

    Args:
        image: ``uint8[1, size, size, channels]``.
        seconds: about how long to measure, at most.
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


class _Host:
    """A bundle on this host: what was tried of it, what was refused and how fast the rest is."""

    def __init__(self, folder: Path, tolerance: float, threads: int, runtime: str) -> None:
        self._folder, self._tolerance, self._threads, self._runtime = folder, tolerance, threads, runtime
        self._info = bundle.parse((folder / bundle.INFO).read_bytes())
        self.reduced = self._info.reduced()
        self._exact: Model | None = None
        self._refused: dict[Variant, str] = {}
        self._speeds = self._known()

    def fastest(self) -> Model | None:
        """The variant that is right and pays most; None: fp32 should answer.

        One whose speed is known is only tried if it would be the fastest; one whose speed is not, always.
        """
        found, best = None, WORTH
        for variant in sorted(self.reduced, key=lambda v: -self._speeds.get(v, math.inf)):
            if self._speeds.get(variant, math.inf) < best or (loaded := self.proven(variant)) is None:
                continue
            speed = self._speeds[variant] = self._speed(loaded)
            if speed >= best:
                found, best = loaded, speed
        return found

    def exact(self) -> Model:
        """fp32, by ONNX Runtime where the one wished for does not do: it runs on every processor."""
        if self._exact is None:
            names = dict.fromkeys((*runtimes.able("fp32", self._runtime), "onnxruntime"))
            self._exact = self._first("fp32", list(names))
        return self._exact

    def proven(self, variant: Variant) -> Model | None:
        """None: no runtime computes it rightly here."""
        try:
            return self._first(variant, runtimes.able(variant, self._runtime))
        except IntegrityError as error:
            self._refused[variant] = str(error)
            return None

    def standings(self, chosen: Model, wish: Wish) -> tuple[Standing, ...]:
        """What became of each variant, for people."""
        return tuple(self._standing(variant, chosen, wish) for variant in self._info.variants())

    def _standing(self, variant: Variant, chosen: Model, wish: Wish) -> Standing:
        speed = self._speeds.get(variant)
        proven_on = self.reduced[variant].proven_on if variant in self.reduced else self._info.proven_on
        if variant == chosen.variant:
            return Standing(variant, "serving", "", speed, proven_on)
        if variant in self._refused:
            return Standing(variant, "refused", self._refused[variant], speed, proven_on)
        if wish != "auto":
            reason = f"{wish} is asked for"
        elif speed is None:
            reason = f"{chosen.variant} is faster"
        elif speed < WORTH:
            reason = f"{speed:.2f} times as fast as fp32 here, {WORTH:g} is needed"
        else:
            reason = f"{speed:.2f} times as fast as fp32 here, {chosen.variant} is faster"
        return Standing(variant, "available", reason, speed, proven_on)

    def _first(self, variant: Variant, names: "tuple[runtimes.Name, ...] | list[runtimes.Name]") -> Model:
        refused = []
        for name in names:
            try:
                loaded = model.load(self._folder, self._threads, variant, name)
                model.check_probes(loaded, self._folder, self._tolerance)
                return loaded
            except IntegrityError as error:
                refused.append(f"by {runtimes.place(name)}: {error}")
                log.warning("%s does not answer on this host %s", variant, refused[-1])
        raise IntegrityError("; ".join(refused) or f"{self._runtime} does not compute {variant}")

    def _known(self) -> dict[Variant, float]:
        """Speeds of this host, of each variant by the first runtime that has one."""
        if not self.reduced:
            return {}
        with _measured(self._folder) as measured:
            found = {
                variant: [
                    speed
                    for name in runtimes.able(variant, self._runtime)
                    if (speed := self._at(variant, runtimes.place(name), measured)) is not None
                ]
                for variant in self.reduced
            }
        return {variant: speeds[0] for variant, speeds in found.items() if speeds}

    def _at(self, variant: Variant, place: str, measured: dict[str, float]) -> float | None:
        report = self.reduced[variant]
        return report.speedup if report.measured_on == place else measured.get(f"{variant} by {place}")

    def _speed(self, loaded: Model) -> float:
        """Measured by whichever worker of the host comes first."""
        place = runtimes.place(loaded.runtime.name)
        with _measured(self._folder) as measured:
            known = self._at(loaded.variant, place, measured)
            if known is None:
                image = np.zeros((1, self._info.image_size, self._info.image_size, self._info.channels), np.uint8)
                known = round(speedup(self._alone(self.exact()), self._alone(loaded), image, _SECONDS), 3)
                measured[f"{loaded.variant} by {place}"] = known
                log.info("%s by %s is %g times as fast as fp32", loaded.variant, place, known)
        return known

    def _alone(self, loaded: Model) -> Model:
        """On one thread, as the service computes."""
        return loaded if self._threads == 1 else model.load(self._folder, 1, loaded.variant, loaded.runtime.name)


@contextmanager
def _measured(folder: Path) -> Iterator[dict[str, float]]:
    """What was measured of the bundle on this host, to be added to; one process at a time.

    Where the folder cannot be written to, each process measures for itself.
    """
    try:
        fd = os.open(folder / bundle.SPEEDS, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        log.info("speeds are not kept: %s", error)
        yield {}
        return
    with os.fdopen(fd, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        text = file.read()
        try:
            speeds = _SPEEDS.validate_json(text)
        except ValueError:  # new, or cut off as it was written
            speeds = {}
        yield speeds
        data = _SPEEDS.dump_json(speeds, indent=1).decode()
        if data != text:
            file.seek(0)
            file.truncate()
            file.write(data)
