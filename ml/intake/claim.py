"""Claims a ready drop: freezes its listing, gives it its id, opens its cycle; and acknowledges it at the end."""

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from ml.catalog import cycles, drops
from ml.catalog.engine import transaction
from ml.context import Context
from ml.errors import ConflictError, InvalidInputError, NotFoundError
from ml.intake import entries, listing, reading, staging_tars
from ml.intake.find import INGESTED, READY, REJECTED
from ml.intake.listing import Listing
from ml.intake.reading import NOTHING, Drop

log = logging.getLogger(__name__)


def claim(ctx: Context, prefix: str) -> str | None:
    """The drop's id, or None if there is nothing left to do for it.

    The id is a hash of what the drop holds, so whoever claims the same content gets the same id, and
    content that was finished before is only acknowledged. A drop that cannot be read at all is
    rejected here, with the reason.

    Args:
        prefix: the drop's folder in the labels bucket.

    Raises:
        InvalidInputError: the drop has no marker.
        ConflictError: the drop is changing right now; try again.
    """
    started = time.monotonic()
    prefix = prefix.rstrip("/") + "/"
    try:
        marker = ctx.labels.info(prefix + READY)
    except NotFoundError as error:
        raise InvalidInputError(
            f"`{prefix}` has no marker: upload an empty object `{prefix}{READY}` when the drop is complete"
        ) from error
    frozen = listing.take(ctx, prefix)
    drop_id = frozen.drop_id
    problem = _frozen(ctx, frozen)
    # A store that tells no time for the marker costs the wait before the claim, which nobody can know then.
    status = drops.begin(ctx.engine, drop_id, prefix, frozen.digest, marker.modified or datetime.now(UTC))
    if status != "claimed":
        acknowledge(ctx, drop_id)
        return None
    cycles.open_cycle(ctx.engine, drop_id, "drop", drop_id)
    cycles.add_seconds(ctx.engine, drop_id, "claim", time.monotonic() - started)
    if problem:
        reject(ctx, drop_id, problem)
        return None
    return drop_id


def reject(ctx: Context, drop_id: str, reason: str, aside: Sequence[Mapping[str, Any]] = (), **columns: Any) -> None:
    """End the drop as rejected: row, cycle and quarantine rows in one transaction, then the marker."""
    with transaction(ctx.engine) as connection:
        if drops.locked_status(connection, drop_id) == "claimed":
            drops.finish(connection, drop_id, "rejected", reason=reason, **columns)
            drops.put_in_quarantine(connection, drop_id, aside)
            drops.stop_cycle(connection, drop_id, "stopped", reason)
    log.warning("drop %s rejected: %s", drop_id, reason)
    acknowledge(ctx, drop_id)


def acknowledge(ctx: Context, drop_id: str, seen: Listing | None = None) -> None:
    """Replace the markers of a finished drop by the one that tells its fate.

    A drop that was added to or changed while this one was handled stays ready: it is a new drop, not yet
    seen. What is changed without a new marker after that is found by `ml.monitoring.maintain`.

    Args:
        ctx: the context.
        drop_id: the drop.
        seen: what the drop held a moment ago; good as long as nobody has set the marker anew.
    """
    row = drops.get(ctx.engine, drop_id)
    staging_tars.discard(ctx, drop_id)
    keep = ("images", "accepted", "quarantined", "duplicates", "reason", "dataset_version", "report_key")
    body = {"drop_id": drop_id, "status": row["status"], **{name: row[name] for name in keep}}
    fate, other = (INGESTED, REJECTED) if row["status"] == "accepted" else (REJECTED, INGESTED)
    ctx.labels.put(row["prefix"] + fate, orjson.dumps(body, option=orjson.OPT_INDENT_2), "application/json")
    ctx.labels.delete([row["prefix"] + other])
    try:
        marker = ctx.labels.info(row["prefix"] + READY)
        now = seen if seen and marker.modified == row["ready_at"] else listing.take(ctx, row["prefix"])
    except NotFoundError:
        return
    if now.drop_id == drop_id or _is_part(now, listing.read(ctx, drop_id)):
        ctx.labels.delete([row["prefix"] + READY])


def _is_part(now: Listing, frozen: Listing) -> bool:
    """Whether nothing came to the drop or changed in it. What did is logged: a store may have told it by mistake."""
    fresh = sorted(set(now.files) - set(frozen.files))
    if now.hint == frozen.hint and not fresh:
        return True
    shown = ", ".join(f"`{f.key}` ({f.size} bytes, ETag {f.etag!r})" for f in fresh[:3]) or "none"
    log.warning(
        "%s changed since it was claimed as drop %s, so it is claimed anew: format %s, now %s; new or changed files: "
        "%d, such as %s",
        *(now.prefix, frozen.drop_id, frozen.hint, now.hint, len(fresh), shown),
    )
    return False


def _frozen(ctx: Context, found: Listing) -> str | None:
    """Keep what the drop holds, before its row says so, and once only; returns why it cannot be used, if so."""
    try:
        return entries.head(ctx, found.drop_id).problem
    except NotFoundError:
        listing.save(ctx, found)
    drop, problem = _read(ctx, found)
    entries.save(ctx, found, drop, problem)
    return problem


def _read(ctx: Context, found: Listing) -> tuple[Drop, str | None]:
    if not found.files:
        return NOTHING, "the drop is empty: its marker is there, but no file"
    try:
        drop = reading.take(ctx, found)
    except InvalidInputError as error:
        return NOTHING, str(error)
    except NotFoundError as error:
        raise ConflictError(f"the drop is changing while it is claimed: {error}; it is tried again") from error
    return drop, None if drop.entries else "the drop holds no image files"
