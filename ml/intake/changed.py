"""Drops that were changed after they were accepted: nothing of it is in the data, and nobody may believe that it is."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import distinct_on

from ml.catalog.engine import transaction
from ml.catalog.tables import drops
from ml.context import Context
from ml.errors import NotFoundError
from ml.intake import listing
from ml.intake.find import READY

_SHOWN: Final = 3


def report(ctx: Context) -> list[str]:
    """What was changed in accepted drops since the last report, in words, a drop each; kept as the drop's reason.

    Files that were added or replaced count; removed ones do not, since an accepted drop may be deleted.
    A drop whose marker was set anew is left to the next ingest.

    Raises:
        UnavailableError: a server does not answer.
    """
    found = []
    for drop in _accepted(ctx):
        words = _changes(ctx, drop)
        if words and words != drop["reason"]:
            with transaction(ctx.engine) as connection:
                connection.execute(update(drops).where(drops.c.id == drop["id"]).values(reason=words))
            found.append(f"{drop['prefix']} {words}")
    return found


def _accepted(ctx: Context) -> list[dict[str, Any]]:
    """The newest of each folder, within retention."""
    since = datetime.now(UTC) - timedelta(days=ctx.settings.retention_days)
    newest = select(drops).ext(distinct_on(drops.c.prefix)).order_by(drops.c.prefix, drops.c.found_at.desc())
    with transaction(ctx.engine) as connection:
        rows = [dict(row) for row in connection.execute(newest.where(drops.c.found_at > since)).mappings()]
    return [row for row in rows if row["status"] == "accepted"]


def _changes(ctx: Context, drop: dict[str, Any]) -> str | None:
    if ctx.labels.exists(drop["prefix"] + READY):
        return None
    now = listing.of(ctx, drop["prefix"], None)
    try:
        frozen = listing.read(ctx, drop["id"])
    except NotFoundError:
        return None
    more = sorted(f.key for f in set(now.files) - set(frozen.files))
    if not more:
        return None
    names = ", ".join(more[:_SHOWN]) + (", …" if len(more) > _SHOWN else "")
    return (
        f"was changed after it was accepted: {len(more)} files were added or replaced ({names}) and are not in the "
        f"data; set {READY} again to ingest them"
    )
