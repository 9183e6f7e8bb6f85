"""The migrations make exactly the tables that the code declares."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from alembic import command
from sqlalchemy import text

from ml.catalog import cycles, erasures, split_salt
from ml.catalog.engine import transaction
from ml.catalog.migrate import alembic_config, migrate
from ml.context import Context
from ml.datasets import splits
from ml.erasure import erase


def test_migrations_match_the_tables(context: Context) -> None:
    migrate(context.engine)
    with transaction(context.engine) as connection:
        command.check(alembic_config(connection))


def test_plain_hashes_of_erasures_become_salted_and_unfinished_ones_can_go_on(context: Context) -> None:
    finished, unfinished = "a" * 64, "b" * 64
    with transaction(context.engine) as connection:
        command.downgrade(alembic_config(connection), "0012-1")
    with transaction(context.engine) as connection:
        add = text("insert into erasures (sha256, actor, reason, finished_at) values (:sha256, 'ann', 'asked', :at)")
        connection.execute(add, [{"sha256": [finished], "at": "2026-01-01"}, {"sha256": [unfinished], "at": None}])
    migrate(context.engine)
    with transaction(context.engine) as connection:
        assert erasures.erased(connection, [finished, unfinished, "c" * 64]) == {finished, unfinished}
        assert erasures.same(connection, [unfinished]) == erasures.unfinished(connection)[0]
        plain = connection.execute(text("select sha256 from erased_content order by sha256")).scalars().all()
        assert plain == [unfinished, None]
    assert erase.finish(context) == 0
    with transaction(context.engine) as connection:
        assert connection.execute(text("select count(sha256) from erased_content")).scalar_one() == 0
        assert erasures.erased(connection, [unfinished]) == {unfinished}


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


def test_the_salt_of_an_installation_is_made_once_and_is_nobody_elses(make_context: Callable[..., Context]) -> None:
    salts = set()
    for context in (make_context(), make_context()):
        with ThreadPoolExecutor(8) as pool:
            read_salts = set(pool.map(split_salt.read, [context.engine] * 16))
        assert len(read_salts) == 1
        salts |= read_salts
    assert len(salts) == 2
    assert all(len(salt) == 64 for salt in salts)
    assert splits.splitter(make_context(split_salt=None)).salt not in salts
    assert splits.splitter(make_context(split_salt="mine")).salt == "mine"
