"""Uploads the spool: images as a tar to the bucket, then the rows to Postgres, in one transaction.

A pair's tar always has the same name and content, and rows are inserted once by id. So an upload that is killed
anywhere is simply repeated, by this worker or by one that adopts the files of a dead one. An image that was erased is
overwritten before the upload, and its row says that there is none.
"""

import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final
from uuid import UUID

import orjson
import psycopg2
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from ml.catalog import erasures, feedback, feedback_later, predictions
from ml.catalog.engine import transaction
from ml.catalog.feedback import FeedbackLimits, FeedbackRecord, FeedbackRefusedError
from ml.catalog.predictions import PredictionRow
from ml.errors import EvergreenError
from ml.storage.object_store import ObjectStore
from serving.periodic import PeriodicThread
from serving.prediction_log import erased, spool
from serving.prediction_log.erased import SpoolCleaner
from serving.prediction_log.log import PredictionLog
from serving.prediction_log.spool import MemberRange, Spool, SpoolRecord
from serving.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

PERIOD: Final = 0.5
ADOPT_PERIOD: Final = 2.0
MAX_PERIOD: Final = 10.0
PAUSE_FACTOR: Final = 1.0
"""Pause after storing a pair, as a multiple of its duration: after an outage predictions precede the backlog."""
MONITOR_PERIOD: Final = 0.5
_NOT_NULL: Final = "23502"  # SQLSTATE not_null_violation


class _ErasedMeanwhile(Exception):  # noqa: N818 - not an error: the pair is stored again
    """An image of the pair was erased after it had been uploaded."""


class PairStore:
    """Stores pairs in the bucket and the catalog.

    Args:
        limits: bounds on feedback, which spooled feedback must keep as well.
    """

    def __init__(
        self, engine: Engine, store: ObjectStore, metrics: Metrics, limits: FeedbackLimits | None = None
    ) -> None:
        self._engine, self._store, self._metrics, self._limits = engine, store, metrics, limits

    def store(self, path: Path, replica: str) -> None:
        """Store a pair, named by its file of rows; idempotent.

        Raises:
            UnavailableError: the bucket or Postgres does not answer.
        """
        contents = spool.decode(path.read_bytes())
        if contents.damaged:
            log.warning("%s: skipped %d truncated or damaged records", path, contents.damaged)
        if not contents.records:
            return
        key = _key(path, replica, contents.records)
        digest_by_member = erased.members(contents.records)
        stored = False
        while not stored:
            with transaction(self._engine) as connection:
                unwanted = erased.find(connection, digest_by_member.values())
            places = {member for member, digest in digest_by_member.items() if digest in unwanted}
            records = [replace(r, member=None) if r.member in places else r for r in contents.records]
            end = self._put(path, key, list(digest_by_member), places)
            try:
                self._insert(records, key, end, replica)
            except _ErasedMeanwhile:
                continue
            except (DataError, IntegrityError) as error:
                if not _is_row_error(error):
                    raise
                self._insert_each(records, key, end, replica)
            stored = True

    def _put(self, path: Path, key: str, members: Sequence[MemberRange], unwanted: Collection[MemberRange]) -> int:
        """Upload the images but for unwanted ones; returns where they end in the tar, 0 where there are none."""
        if not members:
            return 0
        try:
            data = bytearray(spool.finished_tar(path.with_suffix(spool.SUFFIX), members))
        except FileNotFoundError:  # dropped because the spool was full, and counted then
            return 0
        erased.blank(data, list(unwanted))
        self._store.put(key, bytes(data), "application/x-tar")
        return len(data) - len(spool.END)

    def _insert(self, records: Sequence[SpoolRecord], key: str, end: int, replica: str) -> None:
        incoming = [PredictionRow(r.row, _member_within(r.member, end)) for r in records if r.kind == "prediction"]
        with transaction(self._engine) as connection:
            # From here to the commit no erasure begins: one that searches the log after it finds these rows.
            erasures.lock_out(connection)
            if erased.find(connection, erased.members(records).values()):
                raise _ErasedMeanwhile
            new = predictions.store(connection, incoming, key, replica)
            for record in records:
                if record.kind == "feedback":
                    self._store_feedback(connection, _feedback_record(record.row))
            feedback_later.apply_waiting_to_incoming(connection, self._limits)
        self._metrics.stored.inc(new)

    def _store_feedback(self, connection: Connection, record: FeedbackRecord) -> None:
        """As the route would have done, with the level that the key had then; its sender is gone."""
        try:
            feedback.store(connection, record, self._limits)
        except FeedbackRefusedError as error:
            self._metrics.refused.labels(error.code).inc()
            log.warning("feedback of %s, kept while the catalog was away, is refused: %s", record.caller, error)

    def _insert_each(self, records: Sequence[SpoolRecord], key: str, end: int, replica: str) -> None:
        """Store the rows one by one, so that one that Postgres rejects does not block the others."""
        for record in records:
            try:
                self._insert([record], key, end, replica)
            except _ErasedMeanwhile:
                self._insert([replace(record, member=None)], key, end, replica)
            except (DataError, IntegrityError) as error:
                if not _is_row_error(error):
                    raise
                self._metrics.shed.labels("row").inc()
                log.error("a %s cannot be stored: %s: %s", record.kind, error.orig, record.row[:300])


class Uploader(PeriodicThread):
    """Uploads a worker's spool; one per worker. While Postgres or the bucket is unavailable it retries with backoff."""

    def __init__(self, spool_: Spool, pairs: PairStore, cleaner: SpoolCleaner) -> None:
        super().__init__("uploader", PERIOD)
        self._spool, self._pairs, self._cleaner = spool_, pairs, cleaner
        self._adopt_at, self._clean_at, self._error = 0.0, 0.0, ""

    def run(self) -> None:
        super().run()
        self._upload(0)
        while not self._error and self._spool.closed_files(0):
            self._upload(0)

    def stop(self, seconds: float) -> None:
        """Store the pending pairs, if that is possible within `seconds`; the rest stays on disk."""
        super().stop(seconds)
        self._spool.close()

    def tick(self) -> None:
        self._upload(PERIOD)

    def _upload(self, age: float) -> None:
        try:
            for path in self._spool.closed_files(age):
                self._store(path, self._spool.folder.name)
                self._spool.remove(path)
            if time.monotonic() >= self._adopt_at:
                self._adopt()
                self._adopt_at = time.monotonic() + ADOPT_PERIOD
        except Exception as error:  # noqa: BLE001 - on any error the files stay and are retried
            self.period = min(MAX_PERIOD, self.period * 2)
            self._log_state(f"{type(error).__name__}: {error}")
        else:
            self.period = PERIOD
            self._log_state("")
        self._clean()

    def _clean(self) -> None:
        """Also while the bucket is away, which is when files stay here."""
        if time.monotonic() >= self._clean_at:
            try:
                self._cleaner.clean()
            except (EvergreenError, OSError, SQLAlchemyError) as error:  # tried again at the next call
                log.debug("the spool cannot be searched for erased images: %s", error)
            else:
                self._clean_at = time.monotonic() + ADOPT_PERIOD

    def _adopt(self) -> None:
        for folder in spool.other_folders(self._spool.folder.parent, self._spool.folder):
            with spool.adopt(folder) as files:
                for path in files or ():
                    self._store(path, folder.name)
                    spool.delete(path)
                if files is not None:
                    log.info("stored what worker %s left behind: %d files", folder.name, len(files))

    def _store(self, path: Path, replica: str) -> None:
        started = time.monotonic()
        self._pairs.store(path, replica)
        self._stopping.wait(PAUSE_FACTOR * (time.monotonic() - started))

    def _log_state(self, error: str) -> None:
        """Log once when uploading begins to fail, and once when it works again."""
        if bool(error) != bool(self._error):
            if error:
                log.warning("the prediction log cannot be stored and stays on local disk: %s", error)
            else:
                log.info("the prediction log is being stored again")
        self._error = error


class SpoolMonitor(PeriodicThread):
    """Updates the log's sizes and metrics, even while the uploader waits for a server that hangs."""

    def __init__(self, spool_: Spool, prediction_log: PredictionLog, metrics: Metrics) -> None:
        super().__init__("spool-monitor", MONITOR_PERIOD)
        self._spool, self._log, self._metrics = spool_, prediction_log, metrics
        self._failed = False

    def tick(self) -> None:
        try:
            self._spool.refresh_image_bytes()
            self._log.measure()
        except OSError as error:
            if not self._failed:
                log.warning("the spool folder cannot be read: %s", error)
            self._failed = True
        else:
            self._failed = False
        rows, size = self._spool.pending()
        self._metrics.spool_rows.set(rows)
        self._metrics.spool_bytes.set(size)


def _key(path: Path, replica: str, records: Sequence[SpoolRecord]) -> str:
    """The tar's object key, under the day of the first row: retention deletes images by day."""
    first = next((orjson.loads(r.row) for r in records if r.kind == "prediction"), None)
    day = datetime.fromisoformat(first["at"]) if first else datetime.min
    return f"predictions/{day:%Y/%m/%d}/{replica}-{path.stem}.tar"


def _member_within(member: MemberRange | None, end: int) -> tuple[int, int] | None:
    """Offset and size of an image; None if it has none, or if it was lost in a crash of the machine."""
    return (member.offset, member.size) if member and member.offset + member.size <= end else None


def _is_row_error(error: DataError | IntegrityError) -> bool:
    """Whether the row itself is invalid; other errors, such as a missing partition, are retried."""
    state = error.orig.pgcode if isinstance(error.orig, psycopg2.Error) else None
    return isinstance(error, DataError) or state == _NOT_NULL


def _feedback_record(row: bytes) -> FeedbackRecord:
    fields = orjson.loads(row)
    for name in ("predicted_at", "given_at"):
        fields[name] = fields[name] and datetime.fromisoformat(fields[name])
    return FeedbackRecord(**fields | {"prediction_id": fields["prediction_id"] and UUID(fields["prediction_id"])})
