"""The frozen and the growing part of the holdout, and how often decisions used each.

A holdout wears out: every decision made on it leaks a little of it into later training. The frozen part never
changes, so decisions made at different times can be compared; the growing part receives new samples.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects.postgresql import insert

from ml.catalog.engine import transaction
from ml.catalog.tables import dataset_versions, holdout_uses
from ml.context import Context
from ml.datasets import versions
from ml.errors import ConflictError


@dataclass(frozen=True)
class HoldoutPart:
    """A part of the holdout.

    Attributes:
        since: when it was frozen, or when the first dataset version was created.
        uses: number of decisions made on it.
    """

    name: str
    samples: int
    since: datetime | None
    uses: int
    last_used: datetime | None


@dataclass(frozen=True)
class _Frozen:
    """The frozen part: the dataset version whose holdout it is, its samples, and when the version was created."""

    version_id: str
    samples: int
    created_at: datetime


def freeze(ctx: Context, version_id: str) -> None:
    """Make the holdout of a version the frozen part, permanently.

    Raises:
        NotFoundError: no such version.
        ConflictError: the holdout of another version is frozen already.
    """
    version = versions.get(ctx, version_id)
    with transaction(ctx.engine) as connection:
        frozen = _frozen(connection)
        if frozen is not None and frozen.version_id != version.id:
            raise ConflictError(
                f"the holdout of version {frozen.version_id[:12]} is frozen already; this cannot be changed"
            )
        connection.execute(
            update(dataset_versions).where(dataset_versions.c.id == version.id).values(frozen_holdout=True)
        )


def parts(ctx: Context) -> list[HoldoutPart]:
    """Return both parts as of the newest version; only the growing part if nothing is frozen."""
    newest = versions.latest(ctx)
    with transaction(ctx.engine) as connection:
        frozen = _frozen(connection)
        query = select(holdout_uses.c.part, func.count(), func.max(holdout_uses.c.created_at))
        used = {part: (count, last) for part, count, last in connection.execute(query.group_by(holdout_uses.c.part))}
        first = connection.execute(select(func.min(dataset_versions.c.created_at))).scalar_one()
    total, frozen_samples = newest.holdout if newest else 0, frozen.samples if frozen else 0
    result = (
        [HoldoutPart("frozen", frozen_samples, frozen.created_at, *used.get("frozen", (0, None)))] if frozen else []
    )
    return [*result, HoldoutPart("growing", max(0, total - frozen_samples), first, *used.get("growing", (0, None)))]


def record_use(connection: Connection, decision_id: str, samples: int) -> None:
    """Record, within the caller's transaction, that a decision used `samples` holdout samples."""
    frozen = _frozen(connection)
    frozen_samples = min(samples, frozen.samples if frozen else 0)
    rows = [
        {"decision_id": decision_id, "part": part, "samples": count}
        for part, count in (("frozen", frozen_samples), ("growing", samples - frozen_samples))
        if count
    ]
    if rows:
        connection.execute(insert(holdout_uses).on_conflict_do_nothing(), rows)


def _frozen(connection: Connection) -> _Frozen | None:
    table = dataset_versions.c
    row = connection.execute(select(table.id, table.holdout, table.created_at).where(table.frozen_holdout)).first()
    return _Frozen(*row) if row else None
