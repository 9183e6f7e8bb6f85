"""Daily housekeeping: prediction log, stopped replicas, the local cache, erasures, segments, thumbnails."""

import json
import logging
import shutil
import time
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import Connection, delete, func, text

from ml.catalog.engine import advisory_lock, transaction
from ml.catalog.feedback_later import expire_waiting
from ml.catalog.tables import prediction_hours, replicas
from ml.context import Context
from ml.datasets import compact, copy_backfill, loader
from ml.erasure import erase
from ml.models import bundle

log = logging.getLogger(__name__)

_AHEAD = 7
_UNUSED_DAYS = 30
_THUMBNAILS = 100_000  # of samples stored by earlier releases, a day: minutes
# A waiting lock request blocks all inserts of predictions: give up early and retry later.
_LOCK_TIMEOUT = "set local lock_timeout = '10s'"


def maintain(ctx: Context) -> dict[str, int]:
    """Run all housekeeping; return counts by task. Idempotent.

    Raises:
        UnavailableError: a server does not answer, or the prediction log is too busy to be locked.
    """
    today = datetime.now(UTC).date()
    horizon = today - timedelta(days=ctx.settings.retention_days)
    image_horizon = max(horizon, today - timedelta(days=ctx.settings.image_retention_days))
    with advisory_lock(ctx.engine, "maintain"):
        with transaction(ctx.engine) as connection:
            existing, days_in_default = _partitions(connection), _days_without_partition(connection)
        days = {today + timedelta(days=d) for d in range(_AHEAD + 1)} | set(days_in_default)
        created = [_create_partition(ctx, day) for day in sorted(days) if _partition_name(day) not in existing]
        images = _delete_images(ctx, image_horizon)  # before the rows that refer to them are dropped
        dropped = [_drop_partition(ctx, name) for name in [*existing, *created] if name < _partition_name(horizon)]
        with transaction(ctx.engine) as connection:
            connection.execute(delete(prediction_hours).where(prediction_hours.c.hour < horizon))
            expire_waiting(connection, ctx.settings.feedback_wait_days)
            removed_replicas = connection.execute(
                delete(replicas).where(replicas.c.heartbeat_at < func.now() - text("interval '1 hour'"))
            ).rowcount
    return {
        "partitions_made": len(created),
        "partitions_dropped": len(dropped),
        "image_objects_deleted": images,
        "replicas_forgotten": removed_replicas,
        "cache_files_removed": _trim_cache(ctx),
        "erased_files_removed": loader.drop_erased(ctx)[0],
        "erasures_unfinished": erase.finish(ctx),
        "segments_compacted": compact.compact(ctx),
        "thumbnails_made": copy_backfill.fill(ctx, _THUMBNAILS),
    }


def _partition_name(day: date) -> str:
    return f"predictions_{day:%Y%m%d}"


def _partitions(connection: Connection) -> list[str]:
    names = connection.execute(
        text(
            "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid "
            "where i.inhparent = 'predictions'::regclass and c.relname ~ '^predictions_[0-9]{8}$' order by 1"
        )
    )
    return list(names.scalars())


def _days_without_partition(connection: Connection) -> list[date]:
    """Days that have rows in the default partition because their own did not exist."""
    days = connection.execute(text("select distinct (at at time zone 'UTC')::date from predictions_default"))
    return list(days.scalars())


def _create_partition(ctx: Context, day: date) -> str:
    """Create the partition of a day and move its rows out of the default partition, in one transaction."""
    name, start, end = _partition_name(day), f"{day} 00:00+00", f"{day + timedelta(days=1)} 00:00+00"
    with transaction(ctx.engine) as connection:
        connection.execute(text(_LOCK_TIMEOUT))
        connection.execute(text("lock table predictions in access exclusive mode"))
        connection.execute(text(f"create table {name} (like predictions including all)"))
        of_day = f"at >= '{start}' and at < '{end}'"
        # Names and dates are built above, without external input.
        deleted = f"delete from predictions_default where {of_day} returning *"  # noqa: S608
        move = f"with moved as ({deleted}) insert into {name} select * from moved"  # noqa: S608
        connection.execute(text(move))
        connection.execute(
            text(f"alter table predictions attach partition {name} for values from ('{start}') to ('{end}')")
        )
    log.info("created partition %s", name)
    return name


def _drop_partition(ctx: Context, name: str) -> str:
    with transaction(ctx.engine) as connection:
        connection.execute(text(_LOCK_TIMEOUT))
        connection.execute(text(f"drop table {name}"))
    log.info("dropped partition %s: past retention", name)
    return name


def _delete_images(ctx: Context, horizon: date) -> int:
    """Delete the tars of days before `horizon`; a tar only has rows of its day or later."""
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
    """Remove cached files and bundles not read for a month; they are downloaded again if needed.

    Keeps the bundle served last on this host: the service starts with it while no server answers.
    """
    horizon = time.time() - _UNUSED_DAYS * 86_400
    bundles = bundle.cache_folder(ctx.settings.home)
    last = bundles / "last-good.json"
    served = json.loads(last.read_bytes()).get("bundle_digest") if last.exists() else None
    removed = 0
    for path in [*(ctx.settings.home / "cache").glob("*/*"), *bundles.glob("*/")]:
        if path.name != served and max(path.stat().st_atime, path.stat().st_mtime) < horizon:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            removed += 1
    return removed
