"""Bad images are kept, with their reasons, where a person can look at them."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any, Final

from ml.context import Context
from ml.errors import NotFoundError, UnavailableError
from ml.intake import source

_LARGEST: Final = 100_000_000  # bytes of an archive's member


def hold(ctx: Context, prefix: str, drop_id: str, bad: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Copy the bad images of a drop aside; returns the rows to insert (key, label, sha256, reasons, object_key).

    The bytes are copied because drops leave the bucket when their retention ends.
    """

    def copy(row: dict[str, Any]) -> str | None:
        target = _target(drop_id, row["key"])
        try:
            if row["size"] is None or row.get("archive"):
                return target if _unpack(ctx, prefix, row, target) else None
            ctx.store.copy(prefix + row["key"], target, source_bucket=ctx.labels.bucket)
        except NotFoundError:
            return None
        return target

    with ThreadPoolExecutor(8) as pool:
        kept = list(pool.map(copy, bad))
    return [
        {name: row[name] for name in ("key", "label", "sha256", "reasons")} | {"object_key": target}
        for row, target in zip(bad, kept, strict=True)
    ]


def _unpack(ctx: Context, prefix: str, row: dict[str, Any], target: str) -> bool:
    """Store a member of an archive by itself; a file that does not exist and one too large to hold are not."""
    if row["size"] is None or row["size"] > _LARGEST:
        return False
    (data,) = source.images(ctx, prefix, [row])
    if isinstance(data, UnavailableError):
        raise data
    if isinstance(data, bytes):
        ctx.store.put(target, data)
    return isinstance(data, bytes)


def _target(drop_id: str, key: str) -> str:
    """A key of our own making: the uploaded one may hold anything."""
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    suffix = PurePosixPath(key).suffix[:10]
    return f"quarantine/{drop_id}/{digest}{suffix if suffix[1:].isalnum() else ''}"
