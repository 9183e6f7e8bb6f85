"""Whether people corrected what the champion was trained on, so that a warm start would begin from the mistake."""

from datetime import datetime

from sqlalchemy import Connection, select

from ml.catalog.engine import transaction
from ml.catalog.tables import dataset_versions, drops, label_fixes
from ml.context import Context


def since(ctx: Context, known_version: str) -> str | None:
    """The correction of the dataset version that a champion was trained on, as a reason for a full training.

    A reverted drop counts if it was part of that version, a bulk correction of labels if it was made or undone since.
    None if there is no correction, or if the version is not in the catalog.
    """
    query = select(dataset_versions.c.created_at).where(dataset_versions.c.id == known_version)
    with transaction(ctx.engine) as connection:
        created_at = connection.execute(query).scalar()
        return _reverted(connection, created_at) or _fixed(connection, created_at) if created_at else None


def _reverted(connection: Connection, created_at: datetime) -> str | None:
    was_part = (drops.c.reverted_at > created_at, drops.c.finished_at <= created_at)
    prefix = connection.execute(select(drops.c.prefix).where(*was_part).order_by(drops.c.finished_at).limit(1)).scalar()
    return f"{prefix}, which the champion was trained on, was reverted" if prefix else None


def _fixed(connection: Connection, created_at: datetime) -> str | None:
    table = label_fixes.c
    fixed, undone = table.created_at > created_at, table.undone_at > created_at
    # Made and undone since: the labels are those that the champion was trained on.
    query = select(table.prefix).where((fixed & table.undone_at.is_(None)) | (~fixed & undone)).limit(1)
    prefix = connection.execute(query).scalar()
    return f"labels of {prefix}, which the champion was trained on, were fixed in bulk" if prefix else None
