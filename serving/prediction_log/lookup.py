"""A logged prediction by its id: on its way in a spool of this host, or stored."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import Engine, select, text

from ml.catalog.engine import transaction
from ml.catalog.tables import feedback, predictions
from ml.errors import NotFoundError
from ml.storage.object_store import ObjectStore
from serving.errors import ProblemError
from serving.prediction_log import spool
from serving.prediction_log.log import moment
from serving.prediction_log.spool import MemberRange

_MILLISECONDS: Final = 2000
_SLACK_SECONDS: Final = 5.0


@dataclass(frozen=True)
class LoggedRecord:
    """A prediction.

    Attributes:
        row: table `predictions`' columns; those of the image are missing while it waits.
        waiting: its image in a spool's tar, if it has one there.
        feedback: what was said of it.
    """

    row: dict[str, Any]
    waiting: tuple[Path, MemberRange] | None
    feedback: list[dict[str, Any]]


def in_spool(root: Path, identifier: UUID) -> LoggedRecord | None:
    """Look through the files of all workers of this host, those written to since."""
    sought = str(identifier).encode()
    since = moment(identifier).timestamp() - _SLACK_SECONDS
    for folder in spool.folders(root):
        for path in spool.rows_files(folder):
            try:
                data = path.read_bytes() if path.stat().st_mtime >= since else b""
            except FileNotFoundError:
                continue  # it is stored by now
            if sought in data:
                for record in spool.decode(data).records:
                    if record.kind == "prediction" and sought in record.row:
                        place = (path.with_suffix(spool.SUFFIX), record.place) if record.place else None
                        return LoggedRecord(orjson.loads(record.row), place, [])
    return None


def stored(engine: Engine, identifier: UUID) -> LoggedRecord | None:
    """Ask Postgres: the id's time leads to one partition.

    Raises:
        UnavailableError: it does not answer, or not in time.
    """
    query = select(predictions).where(predictions.c.id == identifier, predictions.c.at == moment(identifier))
    told = (
        select(feedback.c.label, feedback.c.source, feedback.c.comment, feedback.c.given_at)
        .where(feedback.c.prediction_id == identifier)
        .order_by(feedback.c.given_at)
    )
    with transaction(engine) as connection:
        connection.execute(text(f"set local statement_timeout = {_MILLISECONDS}"))
        row = connection.execute(query).mappings().one_or_none()
        if row is None:
            return None
        return LoggedRecord(dict(row), None, [dict(opinion) for opinion in connection.execute(told).mappings()])


def image(found: LoggedRecord, store: ObjectStore) -> bytes:
    """The encoded image as it was sent.

    Raises:
        ProblemError: 410, it was not kept, or is no more.
        UnavailableError: the bucket does not answer.
    """
    data = _image(found, store)
    if data is None:
        raise ProblemError(410, "image_gone", "the image of this prediction was not kept, or is kept no longer")
    if hashlib.sha256(data).hexdigest() != found.row["image_sha256"]:
        raise ProblemError(410, "image_gone", "the image of this prediction is damaged")
    return data


def _image(found: LoggedRecord, store: ObjectStore) -> bytes | None:
    if found.waiting:
        path, place = found.waiting
        try:
            with path.open("rb") as file:
                return os.pread(file.fileno(), place.size, place.offset)
        except FileNotFoundError:
            return None
    row = found.row
    if not row.get("image_object"):
        return None
    try:
        return store.get(row["image_object"], row["image_offset"], row["image_size"])
    except NotFoundError:
        return None
