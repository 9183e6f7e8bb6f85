"""The prediction log in Postgres: answers come in by COPY, each once; what is asked of them often is counted then."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Engine, func, select, text

from ml.catalog.copying import copy_in
from ml.catalog.engine import transaction
from ml.catalog.tables import prediction_hours, predictions

_OF_THE_FILE: Final = ("image_object", "image_offset", "image_size", "replica")
_OF_THE_ROW: Final = tuple(c.name for c in predictions.columns if c.name not in _OF_THE_FILE)

_INCOMING: Final = """
create temporary table if not exists incoming_predictions (row json, image_offset bigint, image_size bigint)
on commit delete rows
"""
_COPY: Final = "copy incoming_predictions from stdin"
# Rows come in one order everywhere, so that two who count the same hour wait for each other at most once.
_STORE: Final = f"""
with new as (
    insert into predictions ({", ".join(_OF_THE_ROW)}, image_object, image_offset, image_size, replica)
    select {", ".join(f"r.{name}" for name in _OF_THE_ROW)},
           case when i.image_size is not null then cast(:image_object as text) end, i.image_offset, i.image_size,
           cast(:replica as text)
    from incoming_predictions i, json_populate_record(null::predictions, i.row) r
    on conflict do nothing
    returning at, model_version, label, rejected, brightness
), counted as (
    insert into prediction_hours as known (hour, model_version, label, answers, rejected, brightness)
    select date_trunc('hour', at, 'UTC'), model_version, label, count(*), count(rejected), sum(brightness)
    from new group by 1, 2, 3 order by 1, 2, 3
    on conflict (hour, model_version, label) do update set
        answers = known.answers + excluded.answers,
        rejected = known.rejected + excluded.rejected,
        brightness = known.brightness + excluded.brightness
)
select count(*) from new
"""  # noqa: S608 - our own columns


@dataclass(frozen=True)
class PredictionRow:
    """An answer to store.

    Attributes:
        row: JSON of table `predictions`' columns, those of the image and `replica` left out.
        image: offset and size in the tar; None if its image was not kept.
    """

    row: bytes
    image: tuple[int, int] | None


def store(connection: Connection, incoming: Sequence[PredictionRow], image_object: str | None, replica: str) -> int:
    """Insert those that are not there yet, by id and time, and count them in `prediction_hours`.

    Args:
        image_object: the tar that the images lie in.

    Returns:
        How many were new.

    Raises:
        UnavailableError: the database went away.
        DataError, IntegrityError: of SQLAlchemy, a row does not fit; nothing was inserted.
    """
    connection.execute(text(_INCOMING))
    copy_in(connection, _COPY, io.BytesIO(b"".join(map(_line, incoming))))
    found = connection.execute(text(_STORE), {"image_object": image_object, "replica": replica})
    return int(found.scalar_one())


def by_label(engine: Engine, model_version: int) -> dict[str, int]:
    """How often a model version answered each label, of all hours that are kept."""
    hours = prediction_hours.c
    query = select(hours.label, func.sum(hours.answers)).where(hours.model_version == model_version)
    with transaction(engine) as connection:
        return {label: int(count) for label, count in connection.execute(query.group_by(hours.label))}


def _line(one: PredictionRow) -> bytes:
    """A line of COPY's text format: JSON has no raw tab or newline, so only its backslashes are doubled."""
    place = b"%d\t%d" % one.image if one.image else rb"\N" + b"\t" + rb"\N"
    return one.row.replace(b"\\", b"\\\\") + b"\t" + place + b"\n"
