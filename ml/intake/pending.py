"""Claims all drops that wait for intake: ready ones, and claimed ones whose intake was interrupted."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ml.catalog import drops
from ml.context import Context
from ml.errors import ConflictError, InvalidInputError
from ml.intake.claim import claim
from ml.intake.find import find_ready
from ml.intake.inspect import chunk_count

log = logging.getLogger(__name__)


def claim_all(ctx: Context, prefix: str | None = None, limit: int | None = None) -> list[dict[str, Any]]:
    """Claim the drop at `prefix`, or every ready one and resume interrupted ones; ``{"drop_id", "chunks"}`` each.

    Args:
        limit: the largest number of drops; the remaining ones are left for the next call.

    Raises:
        InvalidInputError: `prefix` has no marker.
    """
    if prefix is not None:
        claimed = [claim(ctx, prefix if prefix.endswith("/") else f"{prefix}/")]
    else:
        claimed = [_try_claim(ctx, drop.prefix) for drop in find_ready(ctx)[:limit]]
        claimed += drops.unfinished(ctx.engine)
    ids = list(dict.fromkeys(d for d in claimed if d))[:limit]
    return [{"drop_id": d, "chunks": chunk_count(ctx, d)} for d in ids]


def _try_claim(ctx: Context, prefix: str) -> str | None:
    """Skip a drop that is changing, or that another process finished since it was found, so that it blocks no other."""
    try:
        return claim(ctx, prefix)
    except (ConflictError, InvalidInputError) as error:
        log.warning("drop %s is not claimed now: %s; it will be tried again", prefix, error)
        return None


def chunk_batches(claimed: Sequence[Mapping[str, Any]], limit: int) -> list[dict[str, Any]]:
    """Batches of chunks of one drop each, ``{"drop_id", "chunks": [...]}``; of one chunk where `limit` allows that.

    Args:
        claimed: the result of `claim_all`, at most `limit` drops.
        limit: the largest number of batches.
    """
    size, largest = 1, max((drop["chunks"] for drop in claimed), default=1)
    while size < largest and sum(math.ceil(drop["chunks"] / size) for drop in claimed) > limit:
        size += 1
    return [
        {"drop_id": drop["drop_id"], "chunks": list(range(start, min(start + size, drop["chunks"])))}
        for drop in claimed
        for start in range(0, drop["chunks"], size)
    ]
