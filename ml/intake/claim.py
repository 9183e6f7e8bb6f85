"""Claims a ready drop (freezes its listing, assigns its id, opens its cycle) and acknowledges it at the end."""

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from ml.catalog import cycles, drops, held_drops, markers
from ml.catalog.drops import QuarantineEntry
from ml.catalog.engine import transaction
from ml.catalog.markers import MARKERS, READY
from ml.context import Context
from ml.errors import ConflictError, InvalidInputError, NotFoundError
from ml.intake import entries, listing, reading, staging_tars
from ml.intake.listing import Listing
from ml.intake.reading import EMPTY_DROP, Drop

log = logging.getLogger(__name__)


def claim(ctx: Context, prefix: str) -> str | None:
    """The drop's id, or None if nothing is left to do for it.

    The id is a hash of the drop's content, so claiming the same content again gives the same id, and
    content that was finished before is only acknowledged. A drop that cannot be read at all is
    rejected here, with the reason.

    Args:
        prefix: the drop's folder in the labels bucket.

    Raises:
        InvalidInputError: the drop has no marker.
        ConflictError: the drop is being changed; try again.
    """
    started = time.monotonic()
    prefix = prefix.rstrip("/") + "/"
    try:
        marker = ctx.labels.info(prefix + READY)
    except NotFoundError as error:
        raise InvalidInputError(_no_marker(ctx, prefix)) from error
    frozen = listing.list_drop(ctx, prefix)
    drop_id = frozen.drop_id
    problem = _freeze(ctx, frozen)
    # Without a time of the marker the wait before the claim is unknown and counts as 0.
    status = drops.begin(ctx.engine, drop_id, prefix, frozen.digest, marker.modified or datetime.now(UTC))
    if status != "claimed":
        acknowledge(ctx, drop_id)
        return None
    for replaced in held_drops.supersede(ctx.engine, prefix, drop_id):
        staging_tars.discard(ctx, replaced)
    cycles.open_cycle(ctx.engine, drop_id, "drop", drop_id)
    cycles.add_seconds(ctx.engine, drop_id, "claim", time.monotonic() - started)
    if problem:
        reject(ctx, drop_id, problem)
        return None
    return drop_id


def _no_marker(ctx: Context, prefix: str) -> str:
    newest = drops.newest_of(ctx.engine, prefix)
    if newest is not None and newest.status == "held":
        return f"`{prefix}` is {newest.reason}"
    return f"`{prefix}` has no marker: upload an empty object `{prefix}{READY}` when the drop is complete"


def reject(
    ctx: Context, drop_id: str, reason: str, quarantine_entries: Sequence[QuarantineEntry] = (), **columns: Any
) -> None:
    """Reject the drop: its row, cycle and quarantine rows in one transaction, then the marker."""
    with transaction(ctx.engine) as connection:
        if drops.locked_status(connection, drop_id) == "claimed":
            drops.finish(connection, drop_id, "rejected", reason=reason, **columns)
            drops.put_in_quarantine(connection, drop_id, quarantine_entries)
            drops.stop_cycle(connection, drop_id, "stopped", reason)
    log.warning("drop %s rejected: %s", drop_id, reason)
    acknowledge(ctx, drop_id)


def acknowledge(ctx: Context, drop_id: str, current: Listing | None = None) -> None:
    """Replace the marker of a finished or held drop by the one for its status.

    If files were added or changed meanwhile, the folder stays ready: it is a new drop. Changes after that,
    without a new marker, are reported by `ml.intake.changed`.

    Args:
        ctx: the context.
        drop_id: the drop.
        current: a recent listing of the drop; used unless the marker has been set again since.
    """
    drop = drops.get(ctx.engine, drop_id)
    if drop.status == "claimed":  # approved a moment ago: it goes on
        return
    if drop.status == "held":
        hint = listing.read(ctx, drop_id).hint
    else:
        hint = None
        staging_tars.discard(ctx, drop_id)
    name = markers.NAME_BY_STATUS[drop.status]
    ctx.labels.put(drop.prefix + name, markers.body(drop, hint), "application/json")
    ctx.labels.delete([drop.prefix + other for other in sorted(MARKERS - {name, READY})])
    try:
        marker = ctx.labels.info(drop.prefix + READY)
        latest = current if current and marker.modified == drop.ready_at else listing.list_drop(ctx, drop.prefix)
    except NotFoundError:
        return
    if latest.drop_id == drop_id or _is_subset(latest, listing.read(ctx, drop_id)):
        ctx.labels.delete([drop.prefix + READY])


def _is_subset(current: Listing, frozen: Listing) -> bool:
    """Whether no file was added or changed since the claim. Changes are logged: a store may report some by mistake."""
    new_files = sorted(set(current.files) - set(frozen.files))
    if current.hint == frozen.hint and not new_files:
        return True
    examples = ", ".join(f"`{f.key}` ({f.size} bytes, ETag {f.etag!r})" for f in new_files[:3]) or "none"
    log.warning(
        "%s changed since it was claimed as drop %s, so it is claimed again: format %s, now %s; new or changed files: "
        "%d, such as %s",
        *(current.prefix, frozen.drop_id, frozen.hint, current.hint, len(new_files), examples),
    )
    return False


def _freeze(ctx: Context, frozen: Listing) -> str | None:
    """Save the listing and entries once, before the drop's row is written; returns why it cannot be used, if so."""
    try:
        return entries.head(ctx, frozen.drop_id).problem
    except NotFoundError:
        listing.save(ctx, frozen)
    drop, problem = _read(ctx, frozen)
    entries.save(ctx, frozen, drop, problem)
    return problem


def _read(ctx: Context, frozen: Listing) -> tuple[Drop, str | None]:
    if not frozen.files:
        return EMPTY_DROP, "the drop is empty: its marker is there, but no file"
    try:
        drop = reading.read_drop(ctx, frozen)
    except InvalidInputError as error:
        return EMPTY_DROP, str(error)
    except NotFoundError as error:
        raise ConflictError(f"the drop is changing while it is claimed: {error}; it will be tried again") from error
    return drop, None if drop.entries else "the drop holds no image files"
