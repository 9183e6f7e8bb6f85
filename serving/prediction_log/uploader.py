"""Moves the spool to storage: images as a tar into the bucket, then the rows into Postgres, in one transaction.

A pair's tar has one name and one content however often it is made, and rows are inserted once by id. So an upload
that is killed anywhere is simply repeated, by this worker or by one that adopts the files of a dead one.
"""

import logging
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final
from uuid import UUID

import orjson
import psycopg2
from sqlalchemy import Engine
from sqlalchemy.exc import DataError, IntegrityError

from ml.catalog import feedback, predictions
from ml.catalog.engine import transaction
from ml.catalog.feedback import FeedbackRecord
from ml.catalog.predictions import PredictionRow
from ml.storage.object_store import ObjectStore
from serving.periodic import PeriodicThread
from serving.prediction_log import spool
from serving.prediction_log.log import PredictionLog
from serving.prediction_log.spool import MemberRange, Spool, SpoolRecord
from serving.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

PERIOD: Final = 0.5
ADOPT_PERIOD: Final = 2.0
LONGEST_PERIOD: Final = 10.0
PAUSE: Final = 1.0
"""Times as long as storing a pair took: after an outage answers come before the backlog."""
MONITOR_PERIOD: Final = 0.5
_NOT_NULL: Final = "23502"  # SQLSTATE not_null_violation


class PairStore:
    """Takes pairs to the bucket and the catalog."""

    def __init__(self, engine: Engine, store: ObjectStore, metrics: Metrics) -> None:
        self._engine, self._store, self._metrics = engine, store, metrics

    def store(self, path: Path, replica: str) -> None:
        """Store a pair, named by its file of rows; doing it again changes nothing.

        Raises:
            UnavailableError: the bucket or Postgres does not answer.
        """
        contents = spool.decode(path.read_bytes())
        if contents.damaged:
            log.warning("%s: %d records cut short or damaged, left out", path, contents.damaged)
        if not contents.records:
            return
        key = _key(path, replica, contents.records)
        end = self._put(path, key, [r.place for r in contents.records if r.place])
        try:
            self._insert(contents.records, key, end, replica)
        except (DataError, IntegrityError) as error:
            if not _of_a_row(error):
                raise
            self._insert_each(contents.records, key, end, replica)

    def _put(self, path: Path, key: str, places: Sequence[MemberRange]) -> int:
        """Upload the images; returns where they end in the tar, 0 where there are none."""
        if not places:
            return 0
        try:
            data = spool.finished(path.with_suffix(spool.SUFFIX), places)
        except FileNotFoundError:  # let go for want of room, and counted by who did that
            return 0
        self._store.put(key, data, "application/x-tar")
        return len(data) - len(spool.END)

    def _insert(self, records: Sequence[SpoolRecord], key: str, end: int, replica: str) -> None:
        incoming = [PredictionRow(r.row, _within(r.place, end)) for r in records if r.kind == "prediction"]
        with transaction(self._engine) as connection:
            new = predictions.store(connection, incoming, key, replica)
            for record in records:
                if record.kind == "feedback":
                    feedback.store(connection, _given(record.row))
            feedback.settle_arrived(connection)
        self._metrics.stored.inc(new)

    def _insert_each(self, records: Sequence[SpoolRecord], key: str, end: int, replica: str) -> None:
        """One row that Postgres will never take must not hold up the others."""
        for record in records:
            try:
                self._insert([record], key, end, replica)
            except (DataError, IntegrityError) as error:
                if not _of_a_row(error):
                    raise
                self._metrics.shed.labels("row").inc()
                log.error("a %s cannot be stored: %s: %s", record.kind, error.orig, record.row[:300])


class Uploader(PeriodicThread):
    """One a worker. While Postgres or the bucket is away it tries again, less and less often."""

    def __init__(self, own: Spool, pairs: PairStore) -> None:
        super().__init__("uploader", PERIOD)
        self._spool, self._pairs = own, pairs
        self._adopt_at, self._error = 0.0, ""

    def run(self) -> None:
        super().run()
        self._upload(0)
        while not self._error and self._spool.closed(0):
            self._upload(0)

    def stop(self, seconds: float) -> None:
        """Store what waits, if that is possible within `seconds`; the rest stays on disk."""
        super().stop(seconds)
        self._spool.close()

    def tick(self) -> None:
        self._upload(PERIOD)

    def _upload(self, age: float) -> None:
        try:
            for path in self._spool.closed(age):
                self._store(path, self._spool.folder.name)
                self._spool.drained(path)
            if time.monotonic() >= self._adopt_at:
                self._adopt()
                self._adopt_at = time.monotonic() + ADOPT_PERIOD
        except Exception as error:  # noqa: BLE001 - whatever it is, the files are kept and tried again
            self.period = min(LONGEST_PERIOD, self.period * 2)
            self._note(f"{type(error).__name__}: {error}")
        else:
            self.period = PERIOD
            self._note("")

    def _adopt(self) -> None:
        for folder in spool.others(self._spool.folder.parent, self._spool.folder):
            with spool.adopted(folder) as files:
                for path in files or ():
                    self._store(path, folder.name)
                    spool.delete(path)
                if files is not None:
                    log.info("stored what worker %s left behind: %d files", folder.name, len(files))

    def _store(self, path: Path, replica: str) -> None:
        started = time.monotonic()
        self._pairs.store(path, replica)
        self._stopping.wait(PAUSE * (time.monotonic() - started))

    def _note(self, error: str) -> None:
        """One line when it begins to fail, one when it works again."""
        if bool(error) != bool(self._error):
            if error:
                log.warning("the prediction log waits on local disk: %s", error)
            else:
                log.info("the prediction log is stored again")
        self._error = error


class SpoolMonitor(PeriodicThread):
    """Keeps the log's figures true while the uploader waits for a server that hangs: measures, tells Prometheus."""

    def __init__(self, own: Spool, prediction_log: PredictionLog, metrics: Metrics) -> None:
        super().__init__("spool-monitor", MONITOR_PERIOD)
        self._spool, self._log, self._metrics = own, prediction_log, metrics
        self._failed = False

    def tick(self) -> None:
        try:
            self._spool.images_gone()
            self._log.measure()
        except OSError as error:
            if not self._failed:
                log.warning("the spool folder cannot be read: %s", error)
            self._failed = True
        else:
            self._failed = False
        rows, size = self._spool.waiting()
        self._metrics.spool_rows.set(rows)
        self._metrics.spool_bytes.set(size)


def _key(path: Path, replica: str, records: Sequence[SpoolRecord]) -> str:
    """The tar's: of the day of the first row, so that the day's images go when their time is over."""
    first = next((orjson.loads(r.row) for r in records if r.kind == "prediction"), None)
    day = datetime.fromisoformat(first["at"]) if first else datetime.min
    return f"predictions/{day:%Y/%m/%d}/{replica}-{path.stem}.tar"


def _within(place: MemberRange | None, end: int) -> tuple[int, int] | None:
    """None too for an image that the kernel had not written when the machine died."""
    return (place.offset, place.size) if place and place.offset + place.size <= end else None


def _of_a_row(error: DataError | IntegrityError) -> bool:
    """Whether the row itself is the trouble, and not, say, that no partition takes it: then it waits."""
    state = error.orig.pgcode if isinstance(error.orig, psycopg2.Error) else None
    return isinstance(error, DataError) or state == _NOT_NULL


def _given(row: bytes) -> FeedbackRecord:
    fields = orjson.loads(row)
    for name in ("predicted_at", "given_at"):
        fields[name] = fields[name] and datetime.fromisoformat(fields[name])
    return FeedbackRecord(**fields | {"prediction_id": fields["prediction_id"] and UUID(fields["prediction_id"])})


SECONDS: Final = 0.5
