"""Everything that waits to be ingested: ready drops, and claimed ones whose ingest was interrupted."""

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


def claim_all(ctx: Context, prefix: str | None = None, most: int | None = None) -> list[dict[str, Any]]:
    """Claim the drop at `prefix`, or every ready one and take up what was begun; ``{"drop_id", "chunks"}`` each.

    Args:
        most: so many drops at the most; the others stay as they are, for the next time.

    Raises:
        InvalidInputError: `prefix` has no marker.
    """
    if prefix is not None:
        claimed = [claim(ctx, prefix if prefix.endswith("/") else f"{prefix}/")]
    else:
        claimed = [_claim_or_leave(ctx, drop.prefix) for drop in find_ready(ctx)[:most]]
        claimed += drops.unfinished(ctx.engine)
    ids = list(dict.fromkeys(d for d in claimed if d))[:most]
    return [{"drop_id": d, "chunks": chunk_count(ctx, d)} for d in ids]


def _claim_or_leave(ctx: Context, prefix: str) -> str | None:
    """A drop that is changing, or that another process finished since it was found, keeps no other drop waiting."""
    try:
        return claim(ctx, prefix)
    except (ConflictError, InvalidInputError) as error:
        log.warning("%s is left for the next time: %s", prefix, error)
        return None


def bundles(claimed: Sequence[Mapping[str, Any]], most: int) -> list[dict[str, Any]]:
    """The chunks of all drops as pieces of work, ``{"drop_id", "chunks": [...]}``: one chunk each where that fits.

    Args:
        claimed: what `claim_all` gave, no more than `most`.
        most: so many pieces at the most.
    """
    size, largest = 1, max((drop["chunks"] for drop in claimed), default=1)
    while size < largest and sum(math.ceil(drop["chunks"] / size) for drop in claimed) > most:
        size += 1
    return [
        {"drop_id": drop["drop_id"], "chunks": list(range(start, min(start + size, drop["chunks"])))}
        for drop in claimed
        for start in range(0, drop["chunks"], size)
    ]
