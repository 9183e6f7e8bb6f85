"""Lookups of stored samples; the cost grows with the number of hashes, not with the store."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, Engine, any_, bindparam, func, select, update

from ml.catalog.engine import transaction
from ml.catalog.tables import dataset_versions, samples

_PAGE: Final = 5000


def labels(engine: Engine, hashes: Sequence[str]) -> dict[str, str]:
    """The current label of every sample among `hashes`."""
    label_by_hash: dict[str, str] = {}
    with transaction(engine) as connection:
        for start in range(0, len(hashes), _PAGE):
            page = list(hashes[start : start + _PAGE])
            query = select(samples.c.sha256, samples.c.label).where(samples.c.sha256 == any_(bindparam("page")))
            rows = connection.execute(query, {"page": page})
            label_by_hash.update(dict(rows.all()))
    return label_by_hash


def labels_and_splits(engine: Engine, hashes: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The current label and the split of every sample among `hashes`."""
    by_hash: dict[str, tuple[str, str]] = {}
    with transaction(engine) as connection:
        for start in range(0, len(hashes), _PAGE):
            page = list(hashes[start : start + _PAGE])
            query = select(samples.c.sha256, samples.c.label, samples.c.split)
            rows = connection.execute(query.where(samples.c.sha256 == any_(bindparam("page"))), {"page": page})
            by_hash.update({digest: (label, split) for digest, label, split in rows})
    return by_hash


def class_size(connection: Connection, label: str, limit: int, split: str | None = None) -> int:
    """The number of samples of a class, in one split or all; counted no further than `limit`."""
    query = select(samples.c.sha256).where(samples.c.label == label, ~samples.c.removed)
    if split is not None:
        query = query.where(samples.c.split == split)
    return int(connection.execute(select(func.count()).select_from(query.limit(limit).subquery())).scalar_one())


def removed(connection: Connection, hashes: Sequence[str]) -> set[str]:
    """Those of the samples that are not in the data: all who brought or labelled them were reverted or revoked."""
    removed_hashes: set[str] = set()
    for start in range(0, len(hashes), _PAGE):
        query = select(samples.c.sha256).where(samples.c.sha256 == any_(bindparam("page")), samples.c.removed)
        removed_hashes |= set(connection.execute(query, {"page": list(hashes[start : start + _PAGE])}).scalars())
    return removed_hashes


def left_out(connection: Connection, hashes: Sequence[str]) -> set[str]:
    """Those of the samples that are copies of samples of another split: they never come back into the data."""
    found: set[str] = set()
    for start in range(0, len(hashes), _PAGE):
        query = select(samples.c.sha256).where(samples.c.sha256 == any_(bindparam("page")), samples.c.left_out)
        found |= set(connection.execute(query, {"page": list(hashes[start : start + _PAGE])}).scalars())
    return found


def leave_out(connection: Connection, hashes: Sequence[str]) -> None:
    """Remove samples for good, within the caller's transaction."""
    for start in range(0, len(hashes), _PAGE):
        chosen = update(samples).where(samples.c.sha256.in_(hashes[start : start + _PAGE]))
        connection.execute(chosen.values(removed=True, left_out=True))


def set_removed(connection: Connection, hashes: Sequence[str], *, to: bool) -> None:
    """Mark samples as being in the data or not, within the caller's transaction."""
    for start in range(0, len(hashes), _PAGE):
        page = hashes[start : start + _PAGE]
        connection.execute(update(samples).where(samples.c.sha256.in_(page)).values(removed=to))


def classes(connection: Connection) -> set[str]:
    """The classes of the newest dataset version; empty before the first."""
    newest = select(dataset_versions.c.classes).order_by(dataset_versions.c.number.desc()).limit(1)
    return set(connection.execute(newest).scalar() or ())
