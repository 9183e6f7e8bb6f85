"""Lists quarantined images, releases them into a new drop, or discards them."""

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, Literal

from sqlalchemy import Connection, Select, func, select, update

from ml.catalog.engine import transaction
from ml.catalog.markers import MARKERS, READY
from ml.catalog.tables import drops, quarantine
from ml.context import Context
from ml.errors import ConflictError, InvalidInputError, NotFoundError


@dataclass(frozen=True, slots=True)
class QuarantineRecord:
    """A row of `quarantine`, with the `prefix` of its drop.

    Attributes:
        key: the image's file in the drop.
        object_key: of its copy in our bucket; None if there are no bytes.
        actor, note, ended_at: who released or discarded it, why and when; None while it is held.
        released_to: the prefix of the drop it was released into.
    """

    id: int
    drop_id: str
    key: str
    label: str | None
    sha256: str | None
    reasons: list[str]
    object_key: str | None
    status: Literal["held", "released", "discarded"]
    actor: str | None
    note: str | None
    released_to: str | None
    ended_at: datetime | None
    created_at: datetime
    prefix: str


def list_held(ctx: Context, prefix: str | None = None, limit: int = 50) -> list[QuarantineRecord]:
    """Quarantined images, newest first; of one drop if `prefix` is given."""
    query = _records().where(quarantine.c.status == "held")
    if prefix is not None:
        query = query.where(drops.c.prefix == f"{prefix.rstrip('/')}/")
    with transaction(ctx.engine) as connection:
        rows = connection.execute(query.order_by(quarantine.c.id.desc()).limit(limit)).mappings()
        return [QuarantineRecord(**row) for row in rows]


def get(ctx: Context, image_id: int) -> QuarantineRecord:
    """One quarantined image; raises NotFoundError."""
    (record,) = _read(ctx, [image_id])
    return record


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
    records = _read(ctx, ids)
    prefix = f"{ctx.settings.drops_prefix}{_drop_name(records, label)}/"
    releasable = [_releasable(record, label, prefix) for record in records]
    table = [("file", "label", "annotator")]
    for image_id, object_key, new_label in releasable:
        name = f"{image_id}{PurePosixPath(object_key).suffix}"
        ctx.labels.copy(object_key, prefix + name, source_bucket=ctx.store.bucket)
        table.append((name, new_label, actor if label else ""))
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
    records = _read(ctx, ids)
    if released := next((record for record in records if record.status == "released"), None):
        raise ConflictError(f"{released.id} was released into {released.released_to}")
    with transaction(ctx.engine) as connection:
        _set_status(connection, ids, "discarded", actor, reason)
    ctx.store.delete([record.object_key for record in records if record.object_key])
    with transaction(ctx.engine) as connection:
        connection.execute(update(quarantine).where(quarantine.c.id.in_(ids)).values(object_key=None))


def is_release(connection: Connection, prefix: str) -> bool:
    """Whether a drop was released from quarantine."""
    return (
        connection.execute(select(quarantine.c.id).where(quarantine.c.released_to == prefix).limit(1)).first()
        is not None
    )


def _records() -> Select[Any]:
    return select(quarantine, drops.c.prefix).join(drops, quarantine.c.drop_id == drops.c.id)


def _read(ctx: Context, ids: Sequence[int]) -> list[QuarantineRecord]:
    query = _records().where(quarantine.c.id.in_(ids)).order_by(quarantine.c.id)
    with transaction(ctx.engine) as connection:
        records = [QuarantineRecord(**row) for row in connection.execute(query).mappings()]
    if missing := sorted(set(ids) - {record.id for record in records}):
        raise NotFoundError(f"quarantine has no image {missing[0]}; `evergreen quarantine list` shows what there is")
    return records


def _releasable(record: QuarantineRecord, label: str | None, prefix: str) -> tuple[int, str, str]:
    """The image's id, the key of its bytes and its label in the new drop."""
    name, new_label = f"{record.id} ({record.key})", label or record.label
    if record.status == "discarded" or (record.status == "released" and record.released_to != prefix):
        destination = f" into {record.released_to}" if record.released_to else ""
        raise ConflictError(f"{name} was {record.status}{destination}")
    if record.object_key is None:
        raise InvalidInputError(f"{name} has no bytes: {'; '.join(record.reasons)}")
    if not new_label:
        raise InvalidInputError(f"{name} has no label: give one with --label")
    return record.id, record.object_key, new_label


def _drop_name(records: Sequence[QuarantineRecord], label: str | None) -> str:
    content = "\n".join([label or "", *(str(record.id) for record in records)])
    return f"released-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def _set_status(connection: Connection, ids: Sequence[int], status: str, actor: str, note: str, **columns: str) -> None:
    values = {"status": status, "actor": actor, "note": note, "ended_at": func.now(), **columns}
    connection.execute(update(quarantine).where(quarantine.c.id.in_(ids)).values(values))
