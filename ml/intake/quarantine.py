"""Copies rejected images of a drop to the quarantine, where a person can review them."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any, Final

from ml.catalog import erasures
from ml.catalog.drops import QuarantineEntry
from ml.catalog.engine import transaction
from ml.context import Context
from ml.errors import NotFoundError, UnavailableError
from ml.intake import source

ERASED: Final = "this image was erased on request"
_MAX_BYTES: Final = 100_000_000  # bytes of an archive member


def copy_images(ctx: Context, prefix: str, drop_id: str, rows: list[dict[str, Any]]) -> list[QuarantineEntry]:
    """Copy the images to the quarantine; returns the entries to insert.

    They are copied because drops are deleted from the bucket when their retention ends. Nothing is kept of an
    image that was erased.

    Args:
        rows: bad rows of `ml.intake.row_verdicts`.
    """

    def copy(row: dict[str, Any]) -> str | None:
        if row["sha256"] in erased:
            return None
        target = _object_key(drop_id, row["key"])
        try:
            if row["size"] is None or row.get("archive"):
                return target if _extract(ctx, prefix, row, target) else None
            ctx.store.copy(prefix + row["key"], target, source_bucket=ctx.labels.bucket)
        except NotFoundError:
            return None
        return target

    erased = _erased(ctx, rows)
    with ThreadPoolExecutor(8) as pool:
        targets = list(pool.map(copy, rows))
    # An erasure that began meanwhile may have searched the quarantine before the copies were there.
    if unwanted := _erased(ctx, rows) - erased:
        ctx.store.delete([t for t, row in zip(targets, rows, strict=True) if t and row["sha256"] in unwanted])
        targets = [None if row["sha256"] in unwanted else t for t, row in zip(targets, rows, strict=True)]
    return [
        QuarantineEntry(row["key"], row["label"], row["sha256"], row["reasons"], target)
        for row, target in zip(rows, targets, strict=True)
    ]


def _erased(ctx: Context, rows: list[dict[str, Any]]) -> set[str]:
    with transaction(ctx.engine) as connection:
        return erasures.erased(connection, {row["sha256"] for row in rows if row["sha256"]})


def _extract(ctx: Context, prefix: str, row: dict[str, Any], target: str) -> bool:
    """Store an archive member as an object; returns False for a missing file and for one that is too large."""
    if row["size"] is None or row["size"] > _MAX_BYTES:
        return False
    (data,) = source.images(ctx, prefix, [row])
    if isinstance(data, UnavailableError):
        raise data
    if isinstance(data, bytes):
        ctx.store.put(target, data)
    return isinstance(data, bytes)


def _object_key(drop_id: str, key: str) -> str:
    """A generated key: the uploaded one may contain anything."""
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    suffix = PurePosixPath(key).suffix[:10]
    return f"quarantine/{drop_id}/{digest}{suffix if suffix[1:].isalnum() else ''}"
