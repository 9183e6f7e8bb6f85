"""Changes of labels of stored samples: what was changed, by whom, by which drop or answer. Rows are never deleted."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import ARRAY, BigInteger, Connection, Text, any_, cast, func, insert, select

from ml.catalog.tables import drops, label_changes

_PAGE: Final = 1000


@dataclass(frozen=True)
class LabelChange:
    """A change of a stored sample's label.

    Attributes:
        before, after: the labels.
        actor: who said so: annotators of a drop, or an operator.
        cause: what changed it: `drop d-…`, `label task 7`.
        drop_id: the drop, if one changed it.
    """

    sha256: str
    split: str
    before: str
    after: str
    actor: str
    cause: str
    drop_id: str | None = None


@dataclass(frozen=True, slots=True)
class LabelChangeRecord:
    """A row of `label_changes`; `LabelChange` explains the fields."""

    id: int
    sha256: str
    split: str
    before: str
    after: str
    actor: str
    cause: str
    drop_id: str | None
    created_at: datetime


def record(connection: Connection, changes: Iterable[LabelChange]) -> None:
    """Insert rows within the caller's transaction."""
    rows = [asdict(change) for change in changes]
    for start in range(0, len(rows), _PAGE):
        connection.execute(insert(label_changes), rows[start : start + _PAGE])


def select_changes(
    connection: Connection,
    *,
    ids: Sequence[int] | None = None,
    drop_id: str | None = None,
    split: str | None = None,
    limit: int | None = None,
) -> list[LabelChangeRecord]:
    """The changes that fit all that is given, the newest first."""
    query = select(label_changes).order_by(label_changes.c.id.desc()).limit(limit)
    if ids is not None:
        query = query.where(label_changes.c.id == any_(cast(list(ids), ARRAY(BigInteger))))
    if drop_id is not None:
        query = query.where(label_changes.c.drop_id == drop_id)
    if split is not None:
        query = query.where(label_changes.c.split == split)
    return [LabelChangeRecord(**row) for row in connection.execute(query).mappings()]


def unseen(connection: Connection, kinds: Sequence[str], days: int) -> dict[str, int]:
    """Class → its samples that drops have relabelled and no person has seen, within the last `days`.

    What was changed by a drop that was approved, or before one of these kinds of findings was last approved, was seen.
    """
    approved = select(func.max(drops.c.approved_at)).where(
        drops.c.approved_kinds.op("&&")(cast(list(kinds), ARRAY(Text)))
    )
    since = max(
        connection.execute(approved).scalar() or datetime.min.replace(tzinfo=UTC), datetime.now(UTC) - timedelta(days)
    )
    query = (
        select(label_changes.c.before, func.count(label_changes.c.sha256.distinct()))
        .join(drops, drops.c.id == label_changes.c.drop_id)
        .where(label_changes.c.created_at > since, drops.c.approved_at.is_(None))
        .group_by(label_changes.c.before)
    )
    return {label: int(count) for label, count in connection.execute(query)}
