"""What lies in quarantine, and how it leaves it: released into a new drop, or discarded."""

import csv
import hashlib
import io
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from sqlalchemy import Connection, func, select, update

from ml.catalog.engine import transaction
from ml.catalog.tables import drops, quarantine
from ml.context import Context
from ml.errors import ConflictError, InvalidInputError, NotFoundError
from ml.intake.find import MARKERS, READY


def held(ctx: Context, prefix: str | None = None, limit: int = 50) -> list[dict[str, Any]]:
    """Quarantined images, the newest first, with their drop's `prefix`; of one drop if `prefix` is given."""
    query = select(quarantine, drops.c.prefix).join(drops, quarantine.c.drop_id == drops.c.id)
    query = query.where(quarantine.c.status == "held")
    if prefix is not None:
        query = query.where(drops.c.prefix == f"{prefix.rstrip('/')}/")
    with transaction(ctx.engine) as connection:
        return [dict(r) for r in connection.execute(query.order_by(quarantine.c.id.desc()).limit(limit)).mappings()]


def get(ctx: Context, number: int) -> dict[str, Any]:
    """One quarantined image; raises NotFoundError."""
    (row,) = _rows(ctx, [number])
    return row


def release(ctx: Context, numbers: Sequence[int], *, label: str | None, actor: str, reason: str) -> str:
    """Hand the images in again as a drop of their own, which goes through intake like any other; its prefix.

    What a person releases may bring new classes, whatever the setting `new_classes` says. Killed
    anywhere and run again, it makes the same drop.

    Args:
        ctx: the context.
        numbers: ids of quarantined images.
        label: for all of them, instead of the one they came with.
        actor: who says so; becomes the annotator of a new label.
        reason: why.

    Raises:
        NotFoundError: no such image.
        InvalidInputError: an image has no label, or its bytes were never there.
        ConflictError: an image was discarded, or released into another drop.
    """
    rows = _rows(ctx, numbers)
    prefix = f"{ctx.settings.drops_prefix}{_name(rows, label)}/"
    for row in rows:
        _refuse_unusable(row, label, prefix)
    table = [("file", "label", "annotator")]
    for row in rows:
        name = f"{row['id']}{PurePosixPath(row['object_key']).suffix}"
        ctx.labels.copy(row["object_key"], prefix + name, source_bucket=ctx.store.bucket)
        table.append((name, label or row["label"], actor if label else ""))
    text = io.StringIO()
    csv.writer(text).writerows(table)
    ctx.labels.put(f"{prefix}labels.csv", text.getvalue().encode(), "text/csv")
    with transaction(ctx.engine) as connection:
        _end(connection, numbers, "released", actor, reason, released_to=prefix)
    if not {o.key.removeprefix(prefix) for o in ctx.labels.list(prefix)} & MARKERS:
        ctx.labels.put(prefix + READY, b"")
    return prefix


def discard(ctx: Context, numbers: Sequence[int], *, actor: str, reason: str) -> None:
    """Give the images up; their bytes are deleted, their rows stay.

    Raises:
        NotFoundError: no such image.
        ConflictError: one was released.
    """
    rows = _rows(ctx, numbers)
    if released := next((r for r in rows if r["status"] == "released"), None):
        raise ConflictError(f"{released['id']} was released into {released['released_to']}")
    with transaction(ctx.engine) as connection:
        _end(connection, numbers, "discarded", actor, reason)
    ctx.store.delete([r["object_key"] for r in rows if r["object_key"]])
    with transaction(ctx.engine) as connection:
        connection.execute(update(quarantine).where(quarantine.c.id.in_(numbers)).values(object_key=None))


def is_release(connection: Connection, prefix: str) -> bool:
    """Whether a drop is what a person released."""
    return (
        connection.execute(select(quarantine.c.id).where(quarantine.c.released_to == prefix).limit(1)).first()
        is not None
    )


def _rows(ctx: Context, numbers: Sequence[int]) -> list[dict[str, Any]]:
    query = select(quarantine, drops.c.prefix).join(drops, quarantine.c.drop_id == drops.c.id)
    with transaction(ctx.engine) as connection:
        found = connection.execute(query.where(quarantine.c.id.in_(numbers)).order_by(quarantine.c.id)).mappings()
        rows = [dict(row) for row in found]
    if missing := sorted(set(numbers) - {row["id"] for row in rows}):
        raise NotFoundError(f"quarantine has no image {missing[0]}; `evergreen quarantine list` shows what there is")
    return rows


def _refuse_unusable(row: dict[str, Any], label: str | None, prefix: str) -> None:
    if row["status"] == "discarded" or (row["status"] == "released" and row["released_to"] != prefix):
        where = f" into {row['released_to']}" if row["released_to"] else ""
        raise ConflictError(f"{row['id']} ({row['key']}) was {row['status']}{where}")
    if row["object_key"] is None:
        raise InvalidInputError(f"{row['id']} ({row['key']}) has no bytes: {'; '.join(row['reasons'])}")
    if not (label or row["label"]):
        raise InvalidInputError(f"{row['id']} ({row['key']}) has no label: give one with --label")


def _name(rows: Sequence[dict[str, Any]], label: str | None) -> str:
    told = "\n".join([label or "", *(str(row["id"]) for row in rows)])
    return f"released-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


def _end(connection: Connection, numbers: Sequence[int], status: str, actor: str, note: str, **more: str) -> None:
    values = {"status": status, "actor": actor, "note": note, "ended_at": func.now(), **more}
    connection.execute(update(quarantine).where(quarantine.c.id.in_(numbers)).values(values))
