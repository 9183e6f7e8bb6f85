"""A spool's pair to storage: the images as a tar into the bucket, then the rows into Postgres, in one transaction.

A pair's tar has one name and one content however often it is made, and rows are inserted once by id, so
a drain that dies anywhere is simply repeated, by this worker or by one that adopts the pair.
"""

import logging
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
from ml.catalog.feedback import Given
from ml.catalog.predictions import Incoming
from ml.objects import ObjectStore
from serving import spool, tar
from serving.metrics import Metrics
from serving.spool import Record
from serving.tar import Place

log = logging.getLogger(__name__)

_NOT_NULL: Final = "23502"


class Storing:
    """Takes pairs to the bucket and the catalog."""

    def __init__(self, engine: Engine, store: ObjectStore, metrics: Metrics) -> None:
        self._engine, self._store, self._metrics = engine, store, metrics

    def pair(self, path: Path, replica: str) -> None:
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

    def _put(self, path: Path, key: str, places: Sequence[Place]) -> int:
        """Upload the images; returns where they end in the tar, 0 where there are none."""
        if not places:
            return 0
        try:
            data = tar.finished(path.with_suffix(tar.SUFFIX), places)
        except FileNotFoundError:  # let go for want of room, and counted by who did that
            return 0
        self._store.put(key, data, "application/x-tar")
        return len(data) - len(tar.END)

    def _insert(self, records: Sequence[Record], key: str, end: int, replica: str) -> None:
        incoming = [Incoming(r.row, _within(r.place, end)) for r in records if r.kind == "prediction"]
        with transaction(self._engine) as connection:
            new = predictions.store(connection, incoming, key, replica)
            for record in records:
                if record.kind == "feedback":
                    feedback.store(connection, _given(record.row))
            feedback.settle_arrived(connection)
        self._metrics.stored.inc(new)

    def _insert_each(self, records: Sequence[Record], key: str, end: int, replica: str) -> None:
        """One row that Postgres will never take must not hold up the others."""
        for record in records:
            try:
                self._insert([record], key, end, replica)
            except (DataError, IntegrityError) as error:
                if not _of_a_row(error):
                    raise
                self._metrics.shed.labels("row").inc()
                log.error("a %s cannot be stored: %s: %s", record.kind, error.orig, record.row[:300])


def _key(path: Path, replica: str, records: Sequence[Record]) -> str:
    """The tar's: of the day of the first row, so that the day's images go when their time is over."""
    first = next((orjson.loads(r.row) for r in records if r.kind == "prediction"), None)
    day = datetime.fromisoformat(first["at"]) if first else datetime.min
    return f"predictions/{day:%Y/%m/%d}/{replica}-{path.stem}.tar"


def _within(place: Place | None, end: int) -> tuple[int, int] | None:
    """None too for an image that the kernel had not written when the machine died."""
    return (place.offset, place.size) if place and place.offset + place.size <= end else None


def _of_a_row(error: DataError | IntegrityError) -> bool:
    """Whether the row itself is the trouble, and not, say, that no partition takes it: then it waits."""
    state = error.orig.pgcode if isinstance(error.orig, psycopg2.Error) else None
    return isinstance(error, DataError) or state == _NOT_NULL


def _given(row: bytes) -> Given:
    fields = orjson.loads(row)
    for name in ("predicted_at", "given_at"):
        fields[name] = fields[name] and datetime.fromisoformat(fields[name])
    return Given(**fields | {"prediction_id": fields["prediction_id"] and UUID(fields["prediction_id"])})
