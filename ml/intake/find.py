"""Finds the ready drops in the bucket. Level-triggered: a drop is found again until it is acknowledged."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from ml.catalog.markers import READY
from ml.context import Context
from ml.errors import NotFoundError


@dataclass(frozen=True)
class ReadyDrop:
    """A drop with a ready marker; `prefix` ends in ``/``."""

    prefix: str
    ready_at: datetime
    etag: str


def find_ready(ctx: Context) -> list[ReadyDrop]:
    """All ready drops, the longest waiting first.

    Costs one listing of the folders plus one small request per folder; accepted drops leave the bucket when
    their retention ends, so the cost depends on recent drops only.
    """
    folders = [o.key for o in ctx.labels.list(ctx.settings.drops_prefix, recursive=False) if o.key.endswith("/")]
    with ThreadPoolExecutor(16) as pool:
        ready = pool.map(lambda prefix: _ready(ctx, prefix), folders)
    return sorted((d for d in ready if d), key=lambda d: d.ready_at)


def _ready(ctx: Context, prefix: str) -> ReadyDrop | None:
    try:
        info = ctx.labels.info(prefix + READY)
    except NotFoundError:
        return None
    return ReadyDrop(prefix, info.modified or datetime.now(UTC), info.etag)
