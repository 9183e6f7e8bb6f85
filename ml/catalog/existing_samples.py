"""Lookups of stored samples; the cost grows with the number of hashes, not with the store."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, Engine, any_, bindparam, select

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


def classes(connection: Connection) -> set[str]:
    """The classes of the newest dataset version; empty before the first."""
    newest = select(dataset_versions.c.classes).order_by(dataset_versions.c.number.desc()).limit(1)
    return set(connection.execute(newest).scalar() or ())
