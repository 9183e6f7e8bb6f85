"""The prediction log: what is logged of each prediction, and what is dropped when the spool is full."""

import hashlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from serving.prediction_log import retention, spool
from serving.prediction_log.retention import ImagePolicy
from serving.prediction_log.spool import Kind, Spool
from serving.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

ROWS_SHARE: Final = 0.1
"""Share of the spool's bytes reserved for rows once images have filled the rest."""
_RECOVERED_SHARE: Final = 0.8
LOGGED_TOP: Final = 5
SHED: Final = ("image", "row")


@dataclass(frozen=True)
class Prediction:
    """One prediction; the fields are columns of table `predictions`.

    Attributes:
        probability: of the likeliest label, scaled by the bundle's temperature: the calibrated confidence.
        rejected: why the answer was rejected as unreliable, None if it was not.
        distance: of the features from those of the training set, None if the bundle has no reference for it.
        milliseconds: from the request's arrival to its answer; of it in the queue, decoding, in the model.
        width, height: of the sent image in pixels.
        brightness: mean of the model's input, in 0..1.
        caller: the API key's name, if there are keys.
    """

    id: uuid.UUID
    model_version: int
    variant: str
    label: str
    probability: float
    top: Sequence[dict[str, object]]
    rejected: str | None
    distance: float | None
    milliseconds: float
    queue_milliseconds: float
    decode_milliseconds: float
    inference_milliseconds: float
    width: int
    height: int
    brightness: float
    caller: str | None
    client_key: str | None
    image: bytes

    def row(self, digest: str) -> bytes:
        """JSON of the row, as `ml.catalog.predictions.store` takes it."""
        fields = {name: getattr(self, name) for name in _COLUMNS}
        return orjson.dumps(fields | {"at": timestamp_of(self.id), "image_sha256": digest})


_COLUMNS: Final = tuple(name for name in Prediction.__annotations__ if name != "image")


class PredictionLog:
    """Appends to the worker's spool. Logging never fails a prediction: what cannot be stored is dropped and counted.

    Attributes:
        other_spools_bytes: pending bytes in other workers' folders, updated by `serving.prediction_log.uploader`.
        state: `keeping`, `shedding images` or `shedding rows`.
    """

    def __init__(self, spool_: Spool, limit: int, policy: ImagePolicy, metrics: Metrics) -> None:
        self._spool, self._limit, self._policy, self._metrics = spool_, limit, policy, metrics
        self._shedding = threading.Lock()
        self.other_spools_bytes = 0
        self.state = "keeping"

    def append(self, prediction: Prediction) -> None:
        """Log the prediction; on return its record has been written to the kernel."""
        digest = hashlib.sha256(prediction.image).hexdigest()
        row = prediction.row(digest)
        keeps = self._policy.keeps(digest, prediction.probability, prediction.rejected)
        image = prediction.image if keeps else b""
        if image and not self._make_room(len(row) + len(image), self._limit * (1 - ROWS_SHARE)):
            image = b""
            self._metrics.shed.labels("image").inc()
        self._write("prediction", row, digest, image)
        if self.state != "keeping" and self._used_bytes() < self._limit * _RECOVERED_SHARE:
            self._set_state("keeping", "there is room again")

    def append_feedback(self, row: bytes) -> bool:
        """Spool feedback until the catalog is available; False if there is no room even for rows."""
        return self._write("feedback", row)

    def _write(self, kind: Kind, row: bytes, digest: str = "", image: bytes = b"") -> bool:
        if not self._make_room(len(row), self._limit):
            self._drop_row(kind, f"{self._used_bytes()} bytes wait, `EVERGREEN_SPOOL_BYTES` is {self._limit}")
            return False
        try:
            self._spool.append(kind, row, digest, image)
        except OSError as error:
            if image:
                self._metrics.shed.labels("image").inc()
                self._set_state("shedding images", str(error))
                return self._write(kind, row)
            self._drop_row(kind, str(error))
            return False
        return True

    def _make_room(self, needed: int, limit: float) -> bool:
        """Whether `needed` bytes fit, after dropping the oldest images if necessary."""
        if self._used_bytes() + needed <= limit:
            return True
        with self._shedding:
            missing = int(self._used_bytes() + needed - limit) + 1
            images, freed = retention.shed_images(self._spool.folder.parent, missing) if missing > 0 else (0, 0)
            self._spool.refresh_image_bytes()
            self.measure()
        self._metrics.shed.labels("image").inc(images)
        self._set_state("shedding images", f"{int(limit)} bytes of the disk are full")
        return freed >= missing

    def measure(self) -> None:
        """Update `other_spools_bytes`.

        Raises:
            OSError: the folder cannot be read.
        """
        root = self._spool.folder.parent
        self.other_spools_bytes = sum(spool.size(folder) for folder in spool.other_folders(root, self._spool.folder))

    def _used_bytes(self) -> int:
        return self._spool.pending()[1] + self.other_spools_bytes

    def _drop_row(self, kind: Kind, why: str) -> None:
        if kind == "prediction":  # a lost feedback is reported to its sender instead
            self._metrics.shed.labels("row").inc()
        self._set_state("shedding rows", why)

    def _set_state(self, state: str, why: str) -> None:
        if state != self.state and (state, self.state) != ("shedding images", "shedding rows"):
            self.state = state
            level = logging.INFO if state == "keeping" else logging.ERROR
            log.log(level, "the prediction log is %s: %s", state, why)

    def stats(self) -> dict[str, Any]:
        """Figures of this host's log, for the console."""
        shed = {f"shed_{what}s": int(self._metrics.total("evergreen_log_shed_total", what=what)) for what in SHED}
        return {"waiting_bytes": self._used_bytes(), "limit_bytes": self._limit, **shed}


def uuid7() -> uuid.UUID:
    """A new id: milliseconds since 1970 in 48 bits, then 74 random bits (RFC 9562, section 5.7)."""
    milliseconds = time.time_ns() // 1_000_000
    value = milliseconds << 80 | int.from_bytes(os.urandom(10), "big")
    return uuid.UUID(int=value & ~(0xF << 76) & ~(0b11 << 62) | 0x7 << 76 | 0b10 << 62)


def timestamp_of(identifier: uuid.UUID) -> datetime:
    """The time in an id made by `uuid7`, to the millisecond: the row's `at`."""
    return datetime.fromtimestamp((identifier.int >> 80) / 1000, UTC)


def is_uuid7(identifier: uuid.UUID) -> bool:
    return identifier.version == 7
