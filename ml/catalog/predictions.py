"""The prediction log in Postgres: rows are inserted by COPY, each once, and aggregated into hourly counts."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Engine, func, select, text

from ml.catalog.copying import copy_in
from ml.catalog.engine import transaction
from ml.catalog.tables import prediction_hours, predictions

_FILE_COLUMNS: Final = ("image_object", "image_offset", "image_size", "replica")
_ROW_COLUMNS: Final = tuple(c.name for c in predictions.columns if c.name not in _FILE_COLUMNS)

_INCOMING: Final = """
create temporary table if not exists incoming_predictions (row json, image_offset bigint, image_size bigint)
on commit delete rows
"""
_COPY: Final = "copy incoming_predictions from stdin"
# All writers update rows in the same order, so that concurrent ones cannot deadlock.
_STORE: Final = f"""
with new as (
    insert into predictions ({", ".join(_ROW_COLUMNS)}, image_object, image_offset, image_size, replica)
    select {", ".join(f"r.{name}" for name in _ROW_COLUMNS)},
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
    """A prediction to store.

    Attributes:
        row: the columns of table `predictions` as JSON, without those of the image and `replica`.
        image: offset and size in the tar; None if the image was not kept.
    """

    row: bytes
    image: tuple[int, int] | None


def store(connection: Connection, incoming: Sequence[PredictionRow], image_object: str | None, replica: str) -> int:
    """Insert rows that do not exist yet, by id and time, and count them in `prediction_hours`.

    Args:
        image_object: the tar that contains the images.

    Returns:
        The number of new rows.

    Raises:
        UnavailableError: the connection was lost.
        DataError, IntegrityError: SQLAlchemy errors for an invalid row; nothing was inserted.
    """
    connection.execute(text(_INCOMING))
    copy_in(connection, _COPY, io.BytesIO(b"".join(map(_copy_line, incoming))))
    result = connection.execute(text(_STORE), {"image_object": image_object, "replica": replica})
    return int(result.scalar_one())


def by_label(engine: Engine, model_version: int) -> dict[str, int]:
    """Number of predictions per label of a model version, over all hours kept."""
    hours = prediction_hours.c
    query = select(hours.label, func.sum(hours.answers)).where(hours.model_version == model_version)
    with transaction(engine) as connection:
        return {label: int(count) for label, count in connection.execute(query.group_by(hours.label))}


def _copy_line(prediction: PredictionRow) -> bytes:
    """A line of COPY's text format: JSON has no raw tab or newline, so only its backslashes are doubled."""
    image = b"%d\t%d" % prediction.image if prediction.image else rb"\N" + b"\t" + rb"\N"
    return prediction.row.replace(b"\\", b"\\\\") + b"\t" + image + b"\n"
