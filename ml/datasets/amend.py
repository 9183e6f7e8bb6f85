"""A version made from the newest one by changing what it lists, not by adding a drop."""

from collections import Counter
from collections.abc import Callable

from sqlalchemy import Connection

from ml.catalog.engine import transaction
from ml.context import Context
from ml.datasets import versions
from ml.datasets.versions import DatasetVersion, Manifest
from ml.errors import NotFoundError


def newest(ctx: Context) -> tuple[DatasetVersion, Manifest]:
    """Raises NotFoundError before the first accepted drop."""
    parent = versions.latest(ctx)
    if parent is None:
        raise NotFoundError("there is no dataset version yet: no drop was accepted so far")
    return parent, versions.manifest(ctx, parent.id)


def commit(
    ctx: Context,
    parent: DatasetVersion,
    made: Manifest,
    added: Counter[str],
    cause: str,
    within: Callable[[Connection], None],
) -> str:
    """Store the manifest, then its row and whatever `within` writes, in one transaction; the version's id.

    The caller holds the lock `datasets`.

    Args:
        ctx: the context.
        parent: the version that `made` was derived from.
        made: the new manifest.
        added: samples a split that came; negative for those that went.
        cause: why there is this version.
        within: writes the facts that belong to it.

    Raises:
        ConflictError: another version came in between; try again.
    """
    ctx.store.put(versions.key(made.id), made.to_bytes(), "application/json")
    with transaction(ctx.engine) as connection:
        versions.check_newest(connection, parent)
        versions.insert_version(connection, made, parent, added, cause)
        within(connection)
    return made.id
