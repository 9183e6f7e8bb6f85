"""The migrations make exactly the tables that the code declares."""

from alembic import command

from ml.catalog import cycles
from ml.catalog.engine import transaction
from ml.catalog.migrate import alembic_config, migrate
from ml.context import Context


def test_migrations_match_the_tables(context: Context) -> None:
    migrate(context.engine)
    with transaction(context.engine) as connection:
        command.check(alembic_config(connection))


def test_a_cycle_adds_up_its_stages(context: Context) -> None:
    cycles.open_cycle(context.engine, "c1", "manual")
    cycles.open_cycle(context.engine, "c1", "manual")
    cycles.add_seconds(context.engine, "c1", "inspect", 1.5)
    cycles.add_seconds(context.engine, "c1", "inspect", 2.0)
    (row,) = cycles.recent(context.engine)
    assert row.seconds == {"inspect": 3.5}


def test_objects_round_trip(context: Context) -> None:
    context.store.put("a/b", b"hello")
    assert context.store.get("a/b") == b"hello"
    assert context.store.get("a/b", 1, 3) == b"ell"
    assert [o.key for o in context.store.list("a/")] == ["a/b"]
