"""Alembic's entry: runs the migrations on the connection that `ml.catalog.migrate` hands over."""

from alembic import context

from ml.catalog.tables import metadata


def _is_ours(name: str | None, kind: str, _parents: object) -> bool:
    """Partitions of `predictions` are made by `maintain`, not by migrations."""
    return not (kind == "table" and name is not None and name.startswith("predictions_"))


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    include_name=_is_ours,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
