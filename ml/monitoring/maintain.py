"""Daily housekeeping: partitions of the prediction log, replicas that are gone, the local cache."""

import logging
import shutil
import time
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import Connection, delete, func, text

from ml.catalog.engine import advisory_lock, transaction
from ml.catalog.tables import replicas
from ml.context import Context

log = logging.getLogger(__name__)

_AHEAD = 7
_UNUSED_DAYS = 30


def maintain(ctx: Context) -> dict[str, int]:
    """Do all of it; counts by what was done. Runs again harmlessly, at any point.

    Raises:
        UnavailableError: the catalog does not answer.
    """
    today = datetime.now(UTC).date()
    with advisory_lock(ctx.engine, "maintain"):
        with transaction(ctx.engine) as connection:
            there = _partitions(connection)
        wanted = [today + timedelta(days=d) for d in range(_AHEAD + 1)]
        made = [_make(ctx, day) for day in wanted if _name(day) not in there]
        horizon = today - timedelta(days=ctx.settings.retention_days)
        dropped = [_drop(ctx, name) for name in there if name < _name(horizon)]
        with transaction(ctx.engine) as connection:
            gone = connection.execute(
                delete(replicas).where(replicas.c.heartbeat_at < func.now() - text("interval '1 hour'"))
            ).rowcount
    return {
        "partitions_made": len(made),
        "partitions_dropped": len(dropped),
        "replicas_forgotten": gone,
        "cache_files_removed": _trim_cache(ctx),
    }


def _name(day: date) -> str:
    return f"predictions_{day:%Y%m%d}"


def _partitions(connection: Connection) -> list[str]:
    found = connection.execute(
        text(
            "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid "
            "where i.inhparent = 'predictions'::regclass and c.relname ~ '^predictions_[0-9]{8}$' order by 1"
        )
    )
    return list(found.scalars())


def _make(ctx: Context, day: date) -> str:
    """A day's partition; rows of that day that the default partition took in move over, in one transaction."""
    name, start, end = _name(day), f"{day} 00:00+00", f"{day + timedelta(days=1)} 00:00+00"
    with transaction(ctx.engine) as connection:
        connection.execute(text("lock table predictions in access exclusive mode"))
        connection.execute(text(f"create table {name} (like predictions including all)"))
        within = f"at >= '{start}' and at < '{end}'"
        # Names and dates are made above, nothing of it comes from outside.
        taken = f"delete from predictions_default where {within} returning *"  # noqa: S608
        move = f"with moved as ({taken}) insert into {name} select * from moved"  # noqa: S608
        connection.execute(text(move))
        connection.execute(
            text(f"alter table predictions attach partition {name} for values from ('{start}') to ('{end}')")
        )
    log.info("made partition %s", name)
    return name


def _drop(ctx: Context, name: str) -> str:
    with transaction(ctx.engine) as connection:
        connection.execute(text(f"drop table {name}"))
    log.info("dropped partition %s: past retention", name)
    return name


def _trim_cache(ctx: Context) -> int:
    """Remove cached files and bundles that nobody read for a month; they are fetched again if needed."""
    horizon = time.time() - _UNUSED_DAYS * 86_400
    removed = 0
    for path in [*(ctx.settings.home / "cache").glob("*/*"), *(ctx.settings.home / "bundles").glob("*/")]:
        if max(path.stat().st_atime, path.stat().st_mtime) < horizon:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            removed += 1
    return removed
