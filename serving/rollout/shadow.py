"""Runs a shadow on images that the live model has answered, in the background; its answers are only compared.

One thread of low priority with a short queue. Images that arrive while the queue is full are skipped and counted.
"""

import logging
import math
import os
import queue
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import numpy as np

from ml.errors import EvergreenError
from ml.imaging import images
from ml.imaging.images import Limits, Pixels
from ml.models.model import Model
from serving.rollout import canary
from serving.rollout.serving_model import ServingModel, Trial
from serving.rollout.trial_counters import Disagreement

log = logging.getLogger(__name__)

_WAITING: Final = 8
_NICE: Final = 10


@dataclass(frozen=True)
class _Sample:
    trial: Trial
    live: ServingModel
    id: UUID
    image: bytes
    pixels: Pixels
    label: str
    probability: float


class ShadowRunner(threading.Thread):
    """The shadow thread of a worker."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(name="shadow", daemon=True)
        self._limits = limits
        self._queue: queue.Queue[_Sample | None] = queue.Queue(_WAITING)

    def submit(
        self, live: ServingModel, identifier: UUID, image: bytes, pixels: Pixels, label: str, probability: float
    ) -> None:
        """Queue the image for the shadow, if there is one and the prediction is in its share; returns at once.

        Args:
            pixels: the live model's input, ``uint8[size, size, channels]``.
        """
        trial = live.trial
        if trial is None or trial.strategy != "shadow":
            return
        if not canary.in_share(str(identifier), trial.candidate.deployment_id, trial.share):
            return
        try:
            self._queue.put_nowait(_Sample(trial, live, identifier, image, pixels, label, probability))
        except queue.Full:
            trial.counters.add(skipped=1)

    def stop(self, seconds: float) -> None:
        with suppress(queue.Full):
            self._queue.put(None, timeout=seconds)
        self.join(seconds)

    def run(self) -> None:
        with suppress(OSError, AttributeError):  # where threads have no separate priority
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while (sample := self._queue.get()) is not None:
            try:
                self._compare(sample)
            except Exception as error:  # noqa: BLE001 - any error of the candidate counts against it
                sample.trial.counters.add(candidate_asked=1, candidate_errors=1)
                log.warning("candidate version %d failed as a shadow: %s", sample.trial.candidate.version, error)

    def _compare(self, sample: _Sample) -> None:
        candidate, counters = sample.trial.candidate, sample.trial.counters
        info = candidate.model.info
        try:
            pixels = self._pixels(sample)
        except EvergreenError:
            return
        probabilities = candidate.model.predict(pixels[np.newaxis])[0]
        if not np.isfinite(probabilities).all():
            raise ValueError("a probability is not finite")
        sample.live.model.predict(sample.pixels[np.newaxis])
        # Each has predicted once, untimed: the first to run after a pause has cold caches and looks slow.
        candidate_seconds, live_seconds = (
            _seconds(m, p) for m, p in ((candidate.model, pixels), (sample.live.model, sample.pixels))
        )
        best = int(probabilities.argmax())
        drop, slower = sample.probability - float(probabilities[best]), math.log(candidate_seconds / live_seconds)
        counters.add(
            candidate_asked=1,
            live_asked=1,
            drop=drop,
            drop_squares=drop**2,
            slower=slower,
            slower_squares=slower**2,
        )
        if info.labels[best] != sample.label:
            counters.add_disagreement(
                Disagreement(
                    sample.id, sample.label, sample.probability, info.labels[best], round(float(probabilities[best]), 6)
                )
            )

    def _pixels(self, sample: _Sample) -> Pixels:
        candidate, live = sample.trial.candidate.model.info, sample.live.model.info
        if (candidate.image_size, candidate.channels) == (live.image_size, live.channels):
            return sample.pixels
        return images.decode(sample.image, candidate.image_size, candidate.channels, self._limits)


def _seconds(model: Model, pixels: Pixels) -> float:
    started = time.perf_counter()
    model.predict(pixels[np.newaxis])
    return time.perf_counter() - started
