"""Spool to storage: images into a tar in the bucket, then rows into Postgres, then the file is deleted.

A spool file's tar has one name and one content however often it is made, and rows are inserted once
by id, so a drain that dies anywhere is simply repeated, by this worker or by one that adopts the file.
"""

import io
import logging
import tarfile
import threading
import time
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import orjson
from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DataError, IntegrityError

from ml.catalog.engine import transaction
from ml.catalog.tables import predictions
from ml.objects import ObjectStore
from serving import spool
from serving.metrics import Metrics
from serving.prediction_log import PredictionLog
from serving.spool import Record, Spool

log = logging.getLogger(__name__)

TICK: Final = 0.5
ADOPT_SECONDS: Final = 2.0
LONGEST_WAIT: Final = 10.0


class Drain(threading.Thread):
    """One a worker. Postgres or the bucket away: it waits, and asks again less and less often."""

    def __init__(
        self, own: Spool, prediction_log: PredictionLog, engine: Engine, store: ObjectStore, metrics: Metrics
    ) -> None:
        super().__init__(name="drain", daemon=True)
        self._spool, self._log = own, prediction_log
        self._engine, self._store, self._metrics = engine, store, metrics
        self._stopping = threading.Event()
        self._wait, self._adopt_at, self._trouble = TICK, 0.0, ""

    def run(self) -> None:
        while not self._stopping.wait(self._wait):
            self._turn(TICK)
        self._turn(0)
        while not self._trouble and self._spool.closed(0):
            self._turn(0)

    def stop(self, seconds: float) -> None:
        """Store what waits, if that is possible within `seconds`; the rest stays on disk."""
        self._stopping.set()
        self.join(seconds)
        self._spool.close()

    def _turn(self, age: float) -> None:
        try:
            for path in self._spool.closed(age):
                self._store_file(path, self._spool.folder.name)
                self._spool.drained(path)
            if time.monotonic() >= self._adopt_at:
                self._adopt()
                self._adopt_at = time.monotonic() + ADOPT_SECONDS
        except Exception as error:  # noqa: BLE001 - whatever it is, the files are kept and tried again
            self._wait = min(LONGEST_WAIT, self._wait * 2)
            self._note(f"{type(error).__name__}: {error}")
        else:
            self._wait = TICK
            self._note("")
        self._measure()

    def _adopt(self) -> None:
        for folder in spool.others(self._spool.folder.parent, self._spool.folder):
            with spool.adopted(folder) as files:
                for path in files or ():
                    self._store_file(path, folder.name)
                    path.unlink()
                if files is not None:
                    log.info("stored what worker %s left behind: %d files", folder.name, len(files))

    def _store_file(self, path: Path, replica: str) -> None:
        contents = spool.read(path)
        if contents.damaged:
            log.warning("%s: %d records cut short or damaged, left out", path, contents.damaged)
        if not contents.records:
            return
        rows = [_row(record, replica) for record in contents.records]
        key = f"predictions/{rows[0]['at']:%Y/%m/%d}/{replica}-{path.stem}.tar"
        tar = pack(contents.records, rows, key)
        if tar:
            self._store.put(key, tar, "application/x-tar")
        try:
            self._insert(rows)
        except (DataError, IntegrityError, ValueError):
            self._insert_each(rows)

    def _insert(self, rows: list[dict[str, Any]]) -> None:
        statement = insert(predictions).on_conflict_do_nothing(index_elements=["id", "at"])
        with transaction(self._engine) as connection:
            connection.execute(statement, rows)
        self._metrics.stored.inc(len(rows))

    def _insert_each(self, rows: list[dict[str, Any]]) -> None:
        """One row that Postgres will never take must not hold up the others."""
        for row in rows:
            try:
                self._insert([row])
            except (DataError, IntegrityError, ValueError) as error:
                self._metrics.shed.labels("row").inc()
                log.error("prediction %s cannot be stored: %s", row["id"], error)

    def _measure(self) -> None:
        rows, size = self._spool.waiting()
        self._metrics.spool_rows.set(rows)
        self._metrics.spool_bytes.set(size)
        folder = self._spool.folder
        try:
            self._log.elsewhere = sum(spool.size(p) for p in spool.others(folder.parent, folder))
        except OSError as error:
            self._note(f"the spool folder cannot be read: {error}")

    def _note(self, trouble: str) -> None:
        """One line when it begins to fail, one when it works again."""
        if bool(trouble) != bool(self._trouble):
            if trouble:
                log.warning("the prediction log waits on local disk: %s", trouble)
            else:
                log.info("the prediction log is stored again")
        self._trouble = trouble


def pack(records: list[Record], rows: list[dict[str, Any]], key: str) -> bytes:
    """A tar of the records' images, each content once; notes in `rows` where each one lies.

    Returns:
        The tar, the same bytes for the same records; empty when no record has an image.
    """
    buffer = io.BytesIO()
    offsets: dict[str, int] = {}
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for record, row in zip(records, rows, strict=True):
            name = row["image_sha256"]
            if not record.image:
                continue
            if name not in offsets:
                member = tarfile.TarInfo(name)
                member.size = len(record.image)
                offsets[name] = tar.offset + tarfile.BLOCKSIZE
                tar.addfile(member, io.BytesIO(record.image))
            row |= {"image_object": key, "image_offset": offsets[name], "image_size": len(record.image)}
    return buffer.getvalue() if offsets else b""


def _row(record: Record, replica: str) -> dict[str, Any]:
    row: dict[str, Any] = orjson.loads(record.header)
    row |= {"id": uuid.UUID(row["id"]), "at": datetime.fromisoformat(row["at"])}
    return row | {"replica": replica, "image_object": None, "image_offset": None, "image_size": None}
