"""What is remembered of each answer, and what is let go when the disk's share is full."""

import hashlib
import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from serving.ids import moment
from serving.metrics import Metrics
from serving.spool import Spool

log = logging.getLogger(__name__)

ROWS_SHARE: Final = 0.1
"""Of the spool's bytes, kept for rows once images have filled the rest."""
LOGGED_TOP: Final = 5


@dataclass(frozen=True)
class Prediction:
    """One answer; the fields are the columns of table `predictions`.

    `width` and `height` are the sent image's in pixels, `brightness` the mean of the model's input
    in 0..1, `milliseconds` from the request's arrival to its answer.
    """

    id: uuid.UUID
    model_version: int
    label: str
    probability: float
    top: Sequence[dict[str, object]]
    milliseconds: float
    width: int
    height: int
    brightness: float
    client_key: str | None
    image: bytes

    def header(self) -> bytes:
        fields = {name: getattr(self, name) for name in _COLUMNS}
        digest = hashlib.sha256(self.image).hexdigest()
        return orjson.dumps(fields | {"at": moment(self.id), "image_sha256": digest})


_COLUMNS: Final = tuple(name for name in Prediction.__annotations__ if name != "image")


class PredictionLog:
    """Appends to the worker's spool. Logging never fails a prediction: what cannot be kept is counted.

    Attributes:
        elsewhere: bytes waiting in other workers' folders, brought up to date by the drain.
    """

    def __init__(self, spool: Spool, limit: int, keep_images: bool, metrics: Metrics) -> None:
        self._spool, self._limit, self._keep_images, self._metrics = spool, limit, keep_images, metrics
        self.elsewhere = 0
        self._state = "keeping"

    def append(self, prediction: Prediction) -> None:
        """Remember the answer; on return its record is with the kernel."""
        header = prediction.header()
        image = prediction.image if self._keep_images else b""
        used = self._spool.waiting()[1] + self.elsewhere
        state = "keeping"
        if image and used + len(header) + len(image) > self._limit * (1 - ROWS_SHARE):
            image, state = b"", "shedding images"
            self._metrics.shed.labels("image").inc()
        if used + len(header) > self._limit:
            self._metrics.shed.labels("row").inc()
            self._note("shedding rows", f"{used} bytes wait, `EVERGREEN_SPOOL_BYTES` is {self._limit}")
            return
        try:
            self._spool.append(header, image)
        except OSError as error:
            self._metrics.shed.labels("row").inc()
            self._note("shedding rows", str(error))
            return
        self._note(state, f"{used} bytes wait, `EVERGREEN_SPOOL_BYTES` is {self._limit}")

    def _note(self, state: str, why: str) -> None:
        if state != self._state:
            self._state = state
            level = logging.INFO if state == "keeping" else logging.ERROR
            log.log(level, "the prediction log is %s: %s", state, why)
