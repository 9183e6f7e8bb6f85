"""Quarantine: copies of rejected images in our bucket, and their rows."""

from collections.abc import Collection
from contextlib import suppress

from sqlalchemy import Column, Connection, case, func, select, update

from ml.catalog.engine import transaction
from ml.catalog.erasures import pages
from ml.catalog.tables import quarantine
from ml.context import Context
from ml.erasure.content import Content, Swept, matching
from ml.errors import NotFoundError

NOTE = "erased"


def sweep(ctx: Context, content: Content, *, remove: bool) -> Swept:
    """Delete the copies that rows name, and those that no row names; the rows stay, without bytes.

    Lists `quarantine/` and reads the objects of the images' sizes.
    """
    size_by_key = {i.key: i.size for i in matching(ctx.store, ctx.store.list("quarantine/"), content)}
    with transaction(ctx.engine) as connection:
        key_by_row = _rows(connection, quarantine.c.sha256, content.hashes)
        key_by_row |= _rows(connection, quarantine.c.object_key, list(size_by_key))
        size_by_key |= {key: size_by_key.get(key, 0) for key in key_by_row.values()}
        if remove and key_by_row:
            _forget(connection, key_by_row)
    if remove:
        # After the rows: objects without a row are found again if this process is killed.
        ctx.store.delete(list(size_by_key))
    return Swept(len(size_by_key), sum(size_by_key.values()), len(key_by_row))


def sizes(ctx: Context, hashes: Collection[str]) -> dict[str, int]:
    """Sizes in bytes of those of the images that have a row with bytes."""
    size_by_hash = dict[str, int]()
    for page in pages(hashes):
        query = select(quarantine.c.sha256, quarantine.c.object_key)
        query = query.where(quarantine.c.sha256.in_(page), quarantine.c.object_key.is_not(None))
        with transaction(ctx.engine) as connection:
            key_by_hash = dict(connection.execute(query).all())
        for digest, key in key_by_hash.items():
            with suppress(NotFoundError):
                size_by_hash[digest] = ctx.store.info(key).size
    return size_by_hash


def _rows(connection: Connection, column: "Column[str]", values: Collection[str]) -> dict[int, str]:
    """Id to object key of the rows with bytes."""
    rows = dict[int, str]()
    for page in pages(values):
        query = select(quarantine.c.id, quarantine.c.object_key)
        query = query.where(column.in_(page), quarantine.c.object_key.is_not(None))
        rows |= dict(connection.execute(query).all())
    return rows


def _forget(connection: Connection, ids: Collection[int]) -> None:
    held = quarantine.c.status == "held"
    values = {
        "status": case((held, "discarded"), else_=quarantine.c.status),
        "note": case((held, NOTE), else_=quarantine.c.note),
        "ended_at": func.coalesce(quarantine.c.ended_at, func.now()),
        "object_key": None,
    }
    connection.execute(update(quarantine).where(quarantine.c.id.in_(ids)).values(values))
