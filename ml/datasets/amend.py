"""Creates a dataset version by changing the manifest of the newest one, without a drop."""

from collections import Counter
from collections.abc import Callable

from sqlalchemy import Connection

from ml.catalog.engine import transaction
from ml.context import Context
from ml.datasets import versions
from ml.datasets.versions import DatasetVersion, Manifest
from ml.errors import NotFoundError


def newest(ctx: Context) -> tuple[DatasetVersion, Manifest]:
    """Return the newest version and its manifest; raises NotFoundError before the first accepted drop."""
    parent = versions.latest(ctx)
    if parent is None:
        raise NotFoundError("there is no dataset version yet: no drop was accepted so far")
    return parent, versions.manifest(ctx, parent.id)


def commit(
    ctx: Context,
    parent: DatasetVersion,
    manifest: Manifest,
    added: Counter[str],
    cause: str,
    write_rows: Callable[[Connection], None],
) -> str:
    """Store the manifest, then insert its row and run `write_rows` in one transaction; return the version's id.

    The caller must hold the lock `datasets`.

    Args:
        parent: the version that `manifest` was derived from.
        manifest: the new manifest.
        added: samples added per split; negative for removed ones.
        cause: what created this version; stored.
        write_rows: writes the related rows in the same transaction.

    Raises:
        ConflictError: another version was created meanwhile; retry.
    """
    ctx.store.put(versions.key(manifest.id), manifest.to_bytes(), "application/json")
    with transaction(ctx.engine) as connection:
        versions.check_newest(connection, parent)
        versions.insert_version(connection, manifest, parent, added, cause)
        write_rows(connection)
    return manifest.id
