"""Bounds how much of the holdout a drop, or a class of it, can become, and keeps a record of its growth.

Without a bound one large drop with wrong labels is most of what all later models are judged by. Groups of near copies
count once. What is beyond the bound trains, so a class that grows also comes to have more of the holdout with time.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from typing import Final

from sqlalchemy import Connection, Select, func, select
from sqlalchemy.dialects.postgresql import insert

from ml.catalog.engine import transaction
from ml.catalog.tables import drops, holdout_growth, samples
from ml.context import Context
from ml.datasets import versions
from ml.datasets.splits import Splitter
from ml.settings import Settings

_COPIES: Final = 4
"""Samples that are read at most for each group that is counted, so that a flood of copies costs little."""


@dataclass(frozen=True)
class Growth:
    """What a drop added to the holdout.

    Attributes:
        prefix: the drop's folder.
        before: samples of the holdout before it.
        samples: samples that it added, near copies of stored ones among them.
        added: class → new groups in the holdout.
        diverted: class → groups that train because they were beyond the bound.
    """

    prefix: str
    before: int
    samples: int
    added: Mapping[str, int]
    diverted: Mapping[str, int]
    created_at: datetime


def candidates(splitter: Splitter, rows: Iterable[tuple[str, str]]) -> Counter[str]:
    """Class → groups that the salt would put into the holdout.

    Args:
        splitter: of the installation.
        rows: label and fingerprint of each new sample; equal fingerprints count once.
    """
    chosen = {fingerprint: label for label, fingerprint in rows if splitter.draw(fingerprint) == "holdout"}
    return Counter(chosen.values())


def quota(connection: Connection, wanted: Mapping[str, int], settings: Settings) -> dict[str, int] | None:
    """Class → groups that may enter the holdout; None, so all, before the first version.

    Of a class, as many as `holdout_growth` of its groups in the holdout, or `holdout_class_least`; of all together, as
    many as `holdout_growth` of its groups, or `holdout_growth_least`. What is beyond is taken from each class in
    proportion, so the mix of classes stays that of the drop. The cost grows with `wanted`, not with the store.
    """
    if versions.newest(connection) is None:
        return None
    growth = settings.holdout_growth
    allowed = {}
    for label, count in sorted(wanted.items()):
        allowed[label] = count
        if count > settings.holdout_class_least:
            stored = _groups(connection, ceil(count / growth), samples.c.label == label)
            allowed[label] = min(count, max(settings.holdout_class_least, int(growth * stored)))
    total = sum(allowed.values())
    if total > settings.holdout_growth_least:
        stored = _groups(connection, ceil(total / growth))
        allowed = in_proportion(allowed, max(settings.holdout_growth_least, int(growth * stored)))
    return allowed


def in_proportion(counts: Mapping[str, int], most: int) -> dict[str, int]:
    """Scale counts down to a total of `most`, by the largest remainders (Hare); ties go by name."""
    total = sum(counts.values())
    if total <= most:
        return dict(counts)
    scaled = {label: count * most // total for label, count in counts.items()}
    by_remainder = sorted(counts, key=lambda label: (-(counts[label] * most % total), label))
    for label in by_remainder[: most - sum(scaled.values())]:
        scaled[label] += 1
    return scaled


def record(connection: Connection, drop_id: str, splitter: Splitter, added_samples: int) -> None:
    """Write down what a drop added, within the transaction that accepts it; nothing if it had no candidate."""
    if not (splitter.added or splitter.diverted or added_samples):
        return
    newest = versions.newest(connection)  # the drop's own
    statement = insert(holdout_growth).values(
        drop_id=drop_id,
        before=newest.holdout - added_samples if newest else 0,
        samples=added_samples,
        added=dict(splitter.added),
        diverted=dict(splitter.diverted),
    )
    connection.execute(statement.on_conflict_do_nothing())


def history(ctx: Context, limit: int = 50) -> list[Growth]:
    """What each drop added, the newest first."""
    columns = (drops.c.prefix, *(c for c in holdout_growth.c if c.name != "drop_id"))
    query = select(*columns).join(drops, drops.c.id == holdout_growth.c.drop_id)
    with transaction(ctx.engine) as connection:
        rows = connection.execute(query.order_by(holdout_growth.c.created_at.desc()).limit(limit)).mappings()
        return [Growth(**row) for row in rows]


def _groups(connection: Connection, enough: int, *where: object) -> int:
    """Groups of the holdout, counted from at most `_COPIES` samples for each of `enough`."""
    query: Select[tuple[str]] = select(samples.c.group_id).where(samples.c.split == "holdout", *where)  # type: ignore[arg-type]
    query = query.where(~samples.c.removed)
    counted = query.limit(_COPIES * enough).subquery()
    return int(connection.execute(select(func.count(counted.c.group_id.distinct()))).scalar_one())
