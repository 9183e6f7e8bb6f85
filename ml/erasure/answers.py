"""The prediction log: images inside the tars of answers, their places in Postgres, questions and feedback on them."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    DateTime,
    Text,
    Uuid,
    and_,
    any_,
    bindparam,
    delete,
    func,
    select,
    text,
)

from ml.catalog.engine import transaction
from ml.catalog.erasures import pages
from ml.catalog.tables import feedback, label_tasks, predictions
from ml.context import Context
from ml.erasure.content import Content, Swept
from ml.errors import NotFoundError
from ml.storage import tar_members

PREFIX: Final = 7
"""Hex digits of a hash in the index `ix_predictions_image`."""
_ROWS: Final = 5000
_FORGET: Final = text(
    "update predictions p set image_object = null, image_offset = null, image_size = null "
    "from unnest(:ids, :times) as q(id, at) where p.id = q.id and p.at = q.at"
).bindparams(bindparam("ids", type_=ARRAY(Uuid())), bindparam("times", type_=ARRAY(DateTime(timezone=True))))


@dataclass(frozen=True, slots=True)
class LoggedImage:
    """An answer whose image is stored."""

    id: UUID
    at: datetime
    sha256: str
    object_key: str
    offset: int
    size: int


def sweep(ctx: Context, content: Content, *, remove: bool) -> Swept:
    """Overwrite the images in their tars, then clear the columns of the answers; delete label tasks and feedback.

    Finds answers by the index of the first digits of the hash: a lookup a hash in each day's partition.
    """
    swept = Swept()
    for page in pages(content.hashes):
        with transaction(ctx.engine) as connection:
            ids = _prediction_ids(connection, page)
        for images in _batches(logged_images(ctx, page)):
            swept += _sweep_images(ctx, images, remove=remove)
        if remove:
            with transaction(ctx.engine) as connection:
                swept += Swept(rows=_delete_opinions(connection, ids, page))
        else:
            with transaction(ctx.engine) as connection:
                query = select(func.count()).where(feedback.c.image_sha256 == _any("hashes", list(page)))
                swept += Swept(rows=connection.execute(query).scalar_one())
    return swept


def logged_images(ctx: Context, hashes: Sequence[str]) -> Iterator[LoggedImage]:
    """The answers on these images whose bytes are stored, by object; one connection is held meanwhile."""
    columns = ("id", "at", "image_sha256", "image_object", "image_offset", "image_size")
    query = select(*(predictions.c[name] for name in columns)).where(
        _of(hashes), predictions.c.image_object.is_not(None)
    )
    with transaction(ctx.engine) as connection:
        rows = connection.execution_options(yield_per=_ROWS).execute(query.order_by(predictions.c.image_object))
        yield from (LoggedImage(*row) for row in rows)


def sizes(ctx: Context, hashes: Collection[str]) -> dict[str, int]:
    """Sizes in bytes of those of the images whose bytes are stored."""
    return {image.sha256: image.size for page in pages(hashes) for image in logged_images(ctx, page)}


def _sweep_images(ctx: Context, images: Sequence[LoggedImage], *, remove: bool) -> Swept:
    places: dict[str, set[tuple[int, int]]] = {}
    for image in images:
        places.setdefault(image.object_key, set()).add((image.offset, image.size))
    if remove:
        for key, ranges in places.items():
            _blank(ctx, key, ranges)
        with transaction(ctx.engine) as connection:
            parameters = {"ids": [i.id for i in images], "times": [i.at for i in images]}
            connection.execute(_FORGET, parameters)
    size = sum(size for ranges in places.values() for _, size in ranges)
    return Swept(len(places), size, len(images))


def _blank(ctx: Context, key: str, ranges: Iterable[tuple[int, int]]) -> None:
    """Rewrite a tar with the images overwritten: the places of all others stay as Postgres has them."""
    try:
        data = bytearray(ctx.store.get(key))
    except NotFoundError:  # its retention has ended
        return
    for offset, size in ranges:
        tar_members.blank(data, offset, size)
    ctx.store.put(key, bytes(data), "application/x-tar")


def _of(hashes: Sequence[str]) -> ColumnElement[bool]:
    short = func.left(predictions.c.image_sha256, PREFIX)
    wanted = sorted({digest[:PREFIX] for digest in hashes})
    return and_(short == _any("short", wanted), predictions.c.image_sha256 == _any("hashes", list(hashes)))


def _any(name: str, values: list[str]) -> Any:
    return any_(bindparam(name, values, type_=ARRAY(Text)))


def _prediction_ids(connection: Connection, hashes: Sequence[str]) -> list[UUID]:
    """Answers on these images that a label task asks about."""
    with_task = select(label_tasks.c.prediction_id).where(label_tasks.c.prediction_id.is_not(None))
    query = select(predictions.c.id).where(_of(hashes), predictions.c.id.in_(with_task))
    return list(connection.execute(query).scalars())


def _delete_opinions(connection: Connection, ids: Collection[UUID], hashes: Sequence[str]) -> int:
    """Delete label tasks about these answers or images, and feedback on the images; returns how many rows."""
    conditions = (
        (label_tasks, label_tasks.c.prediction_id.in_(ids)),
        (label_tasks, label_tasks.c.sha256 == _any("hashes", list(hashes))),
        (feedback, feedback.c.image_sha256 == _any("hashes", list(hashes))),
    )
    return sum(connection.execute(delete(table).where(condition)).rowcount for table, condition in conditions)


def _batches(images: Iterator[LoggedImage]) -> Iterator[list[LoggedImage]]:
    while batch := list(islice(images, _ROWS)):
        yield batch
