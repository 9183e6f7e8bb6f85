"""Lists quarantined images, releases them into a new drop, or discards them."""

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


def list_held(ctx: Context, prefix: str | None = None, limit: int = 50) -> list[dict[str, Any]]:
    """Quarantined images, newest first, with their drop's `prefix`; of one drop if `prefix` is given."""
    query = select(quarantine, drops.c.prefix).join(drops, quarantine.c.drop_id == drops.c.id)
    query = query.where(quarantine.c.status == "held")
    if prefix is not None:
        query = query.where(drops.c.prefix == f"{prefix.rstrip('/')}/")
    with transaction(ctx.engine) as connection:
        return [dict(r) for r in connection.execute(query.order_by(quarantine.c.id.desc()).limit(limit)).mappings()]


def get(ctx: Context, image_id: int) -> dict[str, Any]:
    """One quarantined image; raises NotFoundError."""
    (row,) = _read_rows(ctx, [image_id])
    return row


def release(ctx: Context, ids: Sequence[int], *, label: str | None, actor: str, reason: str) -> str:
    """Release the images into a new drop, which goes through intake like any other; returns its prefix.

    A released drop may add new classes, whatever the setting `new_classes` says. Running this again after
    an interruption creates the same drop.

    Args:
        ctx: the context.
        ids: ids of quarantined images.
        label: for all of them, instead of their own label.
        actor: who releases them; becomes the annotator of a new label.
        reason: why.

    Raises:
        NotFoundError: no such image.
        InvalidInputError: an image has no label, or its bytes were never stored.
        ConflictError: an image was discarded, or released into another drop.
    """
    rows = _read_rows(ctx, ids)
    prefix = f"{ctx.settings.drops_prefix}{_drop_name(rows, label)}/"
    for row in rows:
        _check_releasable(row, label, prefix)
    table = [("file", "label", "annotator")]
    for row in rows:
        name = f"{row['id']}{PurePosixPath(row['object_key']).suffix}"
        ctx.labels.copy(row["object_key"], prefix + name, source_bucket=ctx.store.bucket)
        table.append((name, label or row["label"], actor if label else ""))
    text = io.StringIO()
    csv.writer(text).writerows(table)
    ctx.labels.put(f"{prefix}labels.csv", text.getvalue().encode(), "text/csv")
    with transaction(ctx.engine) as connection:
        _set_status(connection, ids, "released", actor, reason, released_to=prefix)
    if not {o.key.removeprefix(prefix) for o in ctx.labels.list(prefix)} & MARKERS:
        ctx.labels.put(prefix + READY, b"")
    return prefix


def discard(ctx: Context, ids: Sequence[int], *, actor: str, reason: str) -> None:
    """Discard the images: their bytes are deleted, their rows remain.

    Raises:
        NotFoundError: no such image.
        ConflictError: an image was released.
    """
    rows = _read_rows(ctx, ids)
    if released := next((r for r in rows if r["status"] == "released"), None):
        raise ConflictError(f"{released['id']} was released into {released['released_to']}")
    with transaction(ctx.engine) as connection:
        _set_status(connection, ids, "discarded", actor, reason)
    ctx.store.delete([r["object_key"] for r in rows if r["object_key"]])
    with transaction(ctx.engine) as connection:
        connection.execute(update(quarantine).where(quarantine.c.id.in_(ids)).values(object_key=None))


def is_release(connection: Connection, prefix: str) -> bool:
    """Whether a drop was released from quarantine."""
    return (
        connection.execute(select(quarantine.c.id).where(quarantine.c.released_to == prefix).limit(1)).first()
        is not None
    )


def _read_rows(ctx: Context, ids: Sequence[int]) -> list[dict[str, Any]]:
    query = select(quarantine, drops.c.prefix).join(drops, quarantine.c.drop_id == drops.c.id)
    with transaction(ctx.engine) as connection:
        result = connection.execute(query.where(quarantine.c.id.in_(ids)).order_by(quarantine.c.id)).mappings()
        rows = [dict(row) for row in result]
    if missing := sorted(set(ids) - {row["id"] for row in rows}):
        raise NotFoundError(f"quarantine has no image {missing[0]}; `evergreen quarantine list` shows what there is")
    return rows


def _check_releasable(row: dict[str, Any], label: str | None, prefix: str) -> None:
    if row["status"] == "discarded" or (row["status"] == "released" and row["released_to"] != prefix):
        destination = f" into {row['released_to']}" if row["released_to"] else ""
        raise ConflictError(f"{row['id']} ({row['key']}) was {row['status']}{destination}")
    if row["object_key"] is None:
        raise InvalidInputError(f"{row['id']} ({row['key']}) has no bytes: {'; '.join(row['reasons'])}")
    if not (label or row["label"]):
        raise InvalidInputError(f"{row['id']} ({row['key']}) has no label: give one with --label")


def _drop_name(rows: Sequence[dict[str, Any]], label: str | None) -> str:
    content = "\n".join([label or "", *(str(row["id"]) for row in rows)])
    return f"released-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def _set_status(connection: Connection, ids: Sequence[int], status: str, actor: str, note: str, **columns: str) -> None:
    values = {"status": status, "actor": actor, "note": note, "ended_at": func.now(), **columns}
    connection.execute(update(quarantine).where(quarantine.c.id.in_(ids)).values(values))
