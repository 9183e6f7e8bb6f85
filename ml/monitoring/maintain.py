"""Daily housekeeping: partitions of the prediction log, replicas that are gone, the local cache, erasures, segments."""

import json
import logging
import shutil
import time
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import Connection, delete, func, text

from ml.catalog.engine import advisory_lock, transaction
from ml.catalog.tables import feedback_waiting, prediction_hours, replicas
from ml.context import Context
from ml.datasets import compact, erase

log = logging.getLogger(__name__)

_AHEAD = 7
_UNUSED_DAYS = 30
# Everyone who logs a prediction waits behind a lock that waits: rather give up and be tried again.
_PATIENCE = "set local lock_timeout = '10s'"


def maintain(ctx: Context) -> dict[str, int]:
    """Do all of it; counts by what was done. Runs again harmlessly, at any point.

    Raises:
        UnavailableError: a server does not answer, or the prediction log is too busy to be locked.
    """
    today = datetime.now(UTC).date()
    horizon = today - timedelta(days=ctx.settings.retention_days)
    image_horizon = max(horizon, today - timedelta(days=ctx.settings.image_retention_days))
    with advisory_lock(ctx.engine, "maintain"):
        with transaction(ctx.engine) as connection:
            there, stray = _partitions(connection), _days_without_partition(connection)
        wanted = {today + timedelta(days=d) for d in range(_AHEAD + 1)} | set(stray)
        made = [_make(ctx, day) for day in sorted(wanted) if _name(day) not in there]
        images = _delete_images(ctx, image_horizon)  # first: without rows nobody would know of them
        dropped = [_drop(ctx, name) for name in [*there, *made] if name < _name(horizon)]
        with transaction(ctx.engine) as connection:
            connection.execute(delete(prediction_hours).where(prediction_hours.c.hour < horizon))
            connection.execute(delete(feedback_waiting).where(feedback_waiting.c.given_at < horizon))
            gone = connection.execute(
                delete(replicas).where(replicas.c.heartbeat_at < func.now() - text("interval '1 hour'"))
            ).rowcount
    return {
        "partitions_made": len(made),
        "partitions_dropped": len(dropped),
        "image_objects_deleted": images,
        "replicas_forgotten": gone,
        "cache_files_removed": _trim_cache(ctx),
        "erased_objects_deleted": erase.finish(ctx),
        "segments_compacted": compact.compact(ctx),
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


def _days_without_partition(connection: Connection) -> list[date]:
    """Days whose rows the default partition took in, before anybody made theirs."""
    found = connection.execute(text("select distinct (at at time zone 'UTC')::date from predictions_default"))
    return list(found.scalars())


def _make(ctx: Context, day: date) -> str:
    """A day's partition; rows of that day that the default partition took in move over, in one transaction."""
    name, start, end = _name(day), f"{day} 00:00+00", f"{day + timedelta(days=1)} 00:00+00"
    with transaction(ctx.engine) as connection:
        connection.execute(text(_PATIENCE))
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
        connection.execute(text(_PATIENCE))
        connection.execute(text(f"drop table {name}"))
    log.info("dropped partition %s: past retention", name)
    return name


def _delete_images(ctx: Context, horizon: date) -> int:
    """Delete the tars of days before `horizon`; rows of a tar are of its day or later."""
    deleted = 0
    for folder in _folders(ctx, "predictions/", 3):
        year, month, day = folder.strip("/").split("/")[1:]
        if f"{year}{month}{day}" < f"{horizon:%Y%m%d}":
            keys = [o.key for o in ctx.store.list(folder)]
            ctx.store.delete(keys)
            deleted += len(keys)
    return deleted


def _folders(ctx: Context, prefix: str, depth: int) -> list[str]:
    if depth == 0:
        return [prefix]
    below = [o.key for o in ctx.store.list(prefix, recursive=False) if o.key.endswith("/")]
    return [folder for inner in below for folder in _folders(ctx, inner, depth - 1)]


def _trim_cache(ctx: Context) -> int:
    """Remove cached files and bundles that nobody read for a month; they are fetched again if needed.

    Not the bundle that served last on this host: the service starts with it when no server answers.
    """
    horizon = time.time() - _UNUSED_DAYS * 86_400
    bundles = ctx.settings.home / "bundles"
    last = bundles / "last-good.json"
    served = json.loads(last.read_bytes()).get("bundle_digest") if last.exists() else None
    removed = 0
    for path in [*(ctx.settings.home / "cache").glob("*/*"), *bundles.glob("*/")]:
        if path.name != served and max(path.stat().st_atime, path.stat().st_mtime) < horizon:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            removed += 1
    return removed
