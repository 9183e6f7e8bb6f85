"""Bad images are kept, with their reasons, where a person can look at them."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any

from ml.context import Context
from ml.errors import NotFoundError
from ml.intake import listing


def hold(ctx: Context, prefix: str, drop_id: str, bad: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Copy the bad images of a drop aside; returns the rows to insert (key, label, sha256, reasons, object_key).

    The bytes are copied because drops leave the bucket when their retention ends.
    """
    known = {f.key for f in listing.read(ctx, drop_id).files}

    def copy(key: str) -> str | None:
        target = _target(drop_id, key)
        try:
            ctx.store.copy(prefix + key, target, source_bucket=ctx.labels.bucket)
        except NotFoundError:
            return None
        return target

    with ThreadPoolExecutor(8) as pool:
        kept = list(pool.map(lambda row: copy(row["key"]) if row["key"] in known else None, bad))
    return [
        {name: row[name] for name in ("key", "label", "sha256", "reasons")} | {"object_key": target}
        for row, target in zip(bad, kept, strict=True)
    ]


def _target(drop_id: str, key: str) -> str:
    """A key of our own making: the uploaded one may hold anything."""
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    suffix = PurePosixPath(key).suffix[:10]
    return f"quarantine/{drop_id}/{digest}{suffix if suffix[1:].isalnum() else ''}"
