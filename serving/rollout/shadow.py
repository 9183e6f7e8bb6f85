"""Asks a shadowed candidate what was just answered, after the answer and aside from it: nobody waits, nobody sees.

One thread of low priority with a short queue. What finds the queue full is not asked, and counted.
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
    """One for a worker."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(name="shadow", daemon=True)
        self._limits = limits
        self._queue: queue.Queue[_Sample | None] = queue.Queue(_WAITING)

    def submit(
        self, live: ServingModel, identifier: UUID, image: bytes, pixels: Pixels, label: str, probability: float
    ) -> None:
        """Have the candidate asked too, if there is a shadow and this answer is in its share; returns at once.

        Args:
            pixels: what the live model saw, ``uint8[size, size, channels]``.
        """
        trial = live.trial
        if trial is None or trial.strategy != "shadow":
            return
        if not canary.in_share(str(identifier), trial.candidate.deployment_id, trial.share):
            return
        try:
            self._queue.put_nowait(_Sample(trial, live, identifier, image, pixels, label, probability))
        except queue.Full:
            trial.tally.add(skipped=1)

    def stop(self, seconds: float) -> None:
        with suppress(queue.Full):
            self._queue.put(None, timeout=seconds)
        self.join(seconds)

    def run(self) -> None:
        with suppress(OSError, AttributeError):  # where threads have no priority of their own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while (sample := self._queue.get()) is not None:
            try:
                self._ask(sample)
            except Exception as error:  # noqa: BLE001 - whatever a candidate does is a finding
                sample.trial.tally.add(candidate_asked=1, candidate_errors=1)
                log.warning("candidate version %d failed as a shadow: %s", sample.trial.candidate.version, error)

    def _ask(self, sample: _Sample) -> None:
        candidate, tally = sample.trial.candidate, sample.trial.tally
        info = candidate.model.info
        try:
            pixels = self._pixels(sample)
        except EvergreenError:
            return
        found = candidate.model.predict(pixels[np.newaxis])[0]
        if not np.isfinite(found).all():
            raise ValueError("a probability is no number")
        sample.live.model.predict(sample.pixels[np.newaxis])
        # Each was asked once, untimed: the first to compute after a pause finds cold caches and looks slow.
        mine, theirs = (_seconds(m, p) for m, p in ((candidate.model, pixels), (sample.live.model, sample.pixels)))
        best = int(found.argmax())
        drop, slower = sample.probability - float(found[best]), math.log(mine / theirs)
        tally.add(
            candidate_asked=1,
            live_asked=1,
            drop=drop,
            drop_squares=drop**2,
            slower=slower,
            slower_squares=slower**2,
        )
        if info.labels[best] != sample.label:
            tally.disagree(
                Disagreement(
                    sample.id, sample.label, sample.probability, info.labels[best], round(float(found[best]), 6)
                )
            )

    def _pixels(self, sample: _Sample) -> Pixels:
        mine, theirs = sample.trial.candidate.model.info, sample.live.model.info
        if (mine.image_size, mine.channels) == (theirs.image_size, theirs.channels):
            return sample.pixels
        return images.decode(sample.image, mine.image_size, mine.channels, self._limits)


def _seconds(model: Model, pixels: Pixels) -> float:
    started = time.perf_counter()
    model.predict(pixels[np.newaxis])
    return time.perf_counter() - started
