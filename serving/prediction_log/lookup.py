"""Finds a logged prediction by its id: in a spool of this host, or in Postgres."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import Engine, select

from ml.catalog.engine import limit_statements, transaction
from ml.catalog.tables import feedback, predictions
from ml.errors import NotFoundError
from ml.storage.object_store import ObjectStore
from serving.errors import ProblemError
from serving.prediction_log import spool
from serving.prediction_log.log import timestamp_of
from serving.prediction_log.spool import MemberRange

_MILLISECONDS: Final = 2000
_SLACK_SECONDS: Final = 5.0


@dataclass(frozen=True)
class LoggedRecord:
    """A prediction.

    Attributes:
        row: columns of table `predictions`; those of the image are missing while it is in a spool.
        spooled_image: where its image is in a spool's tar, if it is there.
        feedback: the feedback on it.
    """

    row: dict[str, Any]
    spooled_image: tuple[Path, MemberRange] | None
    feedback: list[dict[str, Any]]


def find_in_spool(root: Path, identifier: UUID) -> LoggedRecord | None:
    """Search the spool files of all workers of this host that were written to since the id's time."""
    wanted_id = str(identifier).encode()
    since = timestamp_of(identifier).timestamp() - _SLACK_SECONDS
    for folder in spool.folders(root):
        for path in spool.rows_files(folder):
            try:
                data = path.read_bytes() if path.stat().st_mtime >= since else b""
            except FileNotFoundError:
                continue  # it has been stored meanwhile
            if wanted_id in data:
                for record in spool.decode(data).records:
                    if record.kind == "prediction" and wanted_id in record.row:
                        image = (path.with_suffix(spool.SUFFIX), record.member) if record.member else None
                        return LoggedRecord(orjson.loads(record.row), image, [])
    return None


def find_stored(engine: Engine, identifier: UUID) -> LoggedRecord | None:
    """Query Postgres; the id's time selects one partition.

    Raises:
        UnavailableError: it does not answer, or not in time.
    """
    query = select(predictions).where(predictions.c.id == identifier, predictions.c.at == timestamp_of(identifier))
    opinions = (
        select(
            *(feedback.c.label, feedback.c.caller, feedback.c.source),
            *(feedback.c.level, feedback.c.comment, feedback.c.given_at),
        )
        .where(feedback.c.prediction_id == identifier, feedback.c.status == "stored", feedback.c.revoked_at.is_(None))
        .order_by(feedback.c.given_at)
    )
    with transaction(engine) as connection:
        limit_statements(connection, _MILLISECONDS)
        row = connection.execute(query).mappings().one_or_none()
        if row is None:
            return None
        return LoggedRecord(dict(row), None, [dict(opinion) for opinion in connection.execute(opinions).mappings()])


def read_image(record: LoggedRecord, store: ObjectStore) -> bytes:
    """The encoded image as it was sent.

    Raises:
        ProblemError: 410, it was not kept, or was deleted.
        UnavailableError: the bucket does not answer.
    """
    data = _read_image(record, store)
    if data is None:
        raise ProblemError(410, "image_gone", "the image of this prediction was not kept, or is kept no longer")
    if hashlib.sha256(data).hexdigest() != record.row["image_sha256"]:
        raise ProblemError(410, "image_gone", "the image of this prediction is damaged")
    return data


def _read_image(record: LoggedRecord, store: ObjectStore) -> bytes | None:
    if record.spooled_image:
        path, member = record.spooled_image
        try:
            with path.open("rb") as file:
                return os.pread(file.fileno(), member.size, member.offset)
        except FileNotFoundError:
            return None
    row = record.row
    if not row.get("image_object"):
        return None
    try:
        return store.get(row["image_object"], row["image_offset"], row["image_size"])
    except NotFoundError:
        return None
