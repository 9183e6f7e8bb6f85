"""Reports drops that were changed after they were accepted: such changes are not in the data."""

from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import distinct_on

from ml.catalog.drops import DropRecord
from ml.catalog.engine import transaction
from ml.catalog.markers import READY
from ml.catalog.tables import drops
from ml.context import Context
from ml.errors import NotFoundError
from ml.intake import listing

_MAX_NAMES: Final = 3  # in a message


def report(ctx: Context) -> list[str]:
    """One message per accepted drop that changed since the last report; it is also stored as the drop's reason.

    Added and replaced files count; removed ones do not, since an accepted drop may be deleted. A drop whose
    marker was set again is left to the next ingest.

    Raises:
        UnavailableError: a server does not answer.
    """
    messages = []
    for drop in _accepted_drops(ctx):
        message = _changes(ctx, drop)
        if message and message != drop.reason:
            with transaction(ctx.engine) as connection:
                connection.execute(update(drops).where(drops.c.id == drop.id).values(reason=message))
            messages.append(f"{drop.prefix} {message}")
    return messages


def _accepted_drops(ctx: Context) -> list[DropRecord]:
    """Folders whose newest drop within retention is accepted."""
    since = datetime.now(UTC) - timedelta(days=ctx.settings.retention_days)
    newest = select(drops).ext(distinct_on(drops.c.prefix)).order_by(drops.c.prefix, drops.c.found_at.desc())
    with transaction(ctx.engine) as connection:
        rows = connection.execute(newest.where(drops.c.found_at > since)).mappings().all()
    return [drop for row in rows if (drop := DropRecord(**row)).status == "accepted"]


def _changes(ctx: Context, drop: DropRecord) -> str | None:
    if ctx.labels.exists(drop.prefix + READY):
        return None
    current = listing.list_prefix(ctx, drop.prefix, None)
    try:
        frozen = listing.read(ctx, drop.id)
    except NotFoundError:
        return None
    changed_keys = sorted(f.key for f in set(current.files) - set(frozen.files))
    if not changed_keys:
        return None
    names = ", ".join(changed_keys[:_MAX_NAMES]) + (", …" if len(changed_keys) > _MAX_NAMES else "")
    return (
        f"was changed after it was accepted: {len(changed_keys)} files were added or replaced ({names}) and are not in "
        f"the data; set {READY} again to ingest them"
    )
