"""Copies on hosts: the caches of this one, and the spools of the service's workers wherever these run."""

import time
from datetime import datetime
from typing import Final

from sqlalchemy import func, select, text

from ml.catalog.engine import transaction
from ml.catalog.tables import replicas
from ml.context import Context
from ml.datasets import loader
from ml.erasure.content import Swept
from ml.label_checks import feature_cache

WAIT_SECONDS: Final = 10.0
"""How long running workers are waited for."""
_POLL_SECONDS: Final = 0.5
_ALIVE = text("interval '1 minute'")


def sweep_cache(ctx: Context) -> Swept:
    """Delete this host's cached copies of erased segments and features of images; other hosts do at their next use."""
    files, size = loader.drop_erased(ctx)
    more_files, more_size = feature_cache.delete(ctx)
    return Swept(files + more_files, size + more_size)


def unconfirmed(ctx: Context, erasure_id: int) -> Swept:
    """A sentence for each worker that has not confirmed that its spool is clean; waits for running ones."""
    deadline = time.monotonic() + WAIT_SECONDS
    rows = _pending(ctx, erasure_id)
    while any(up for _, _, up in rows) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        rows = _pending(ctx, erasure_id)
    return Swept(left=tuple(_sentence(name, f"{heartbeat:%Y-%m-%d %H:%M:%S}", up) for name, heartbeat, up in rows))


def _pending(ctx: Context, erasure_id: int) -> list[tuple[str, datetime, bool]]:
    """Id, last heartbeat and whether it is running, of each such worker."""
    pending = func.coalesce(replicas.c.erasure_id, 0) < erasure_id
    alive = replicas.c.heartbeat_at > func.now() - _ALIVE
    query = select(replicas.c.id, replicas.c.heartbeat_at, alive.label("alive")).where(pending).order_by(replicas.c.id)
    with transaction(ctx.engine) as connection:
        return [(row.id, row.heartbeat_at, row.alive) for row in connection.execute(query)]


def _sentence(replica: str, heartbeat: str, is_alive: bool) -> str:
    if is_alive:
        return f"replica {replica} has not confirmed that its spool is clean; a running one takes seconds"
    return (
        f"replica {replica} did not confirm and last reported at {heartbeat}: its spool is cleaned before anything "
        "of it is stored; it is counted as gone an hour after that"
    )
