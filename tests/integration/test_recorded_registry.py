"""A version number means one bundle for ever, whatever people do in MLflow, and needs no MLflow to be read."""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import update

from ml.catalog import cycles
from ml.catalog.engine import transaction
from ml.catalog.tables import model_versions
from ml.context import Context
from ml.errors import NotFoundError, UnavailableError
from ml.models.recorded_registry import RecordedRegistry
from ml.models.registry import BundleLocation
from tests.bundles import deploy
from tests.contracts.registry import RegistryContract, StoredBundle, stored_bundle
from tests.doubles.registry import MemoryRegistry

__all__ = ["stored_bundle"]


class Breakable(MemoryRegistry):
    """Attributes: `is_away`: whether it answers nothing."""

    is_away = False

    def bundle(self, version: int) -> BundleLocation:
        if self.is_away:
            raise UnavailableError("the registry is away")
        return super().bundle(version)


@pytest.fixture
def inner() -> Breakable:
    return Breakable()


@pytest.fixture
def ctx(make_context: Callable[..., Context]) -> Context:
    return make_context()


@pytest.fixture
def registry(ctx: Context, inner: Breakable) -> RecordedRegistry:
    return RecordedRegistry(ctx.engine, inner)


class TestRecordedRegistry(RegistryContract):
    @pytest.fixture
    def registry(self, ctx: Context) -> RecordedRegistry:
        self.inner = MemoryRegistry()
        return RecordedRegistry(ctx.engine, self.inner)

    @pytest.fixture
    def new_run(self) -> Callable[[], str]:
        numbers = itertools.count(1)
        return lambda: f"run-{next(numbers)}"

    def test_a_deleted_version_loses_its_aliases_and_its_number_is_not_used_again(  # type: ignore[override]
        self, registry: RecordedRegistry, register: Callable[..., int]
    ) -> None:
        """And all else that is known of it stays."""
        first, second = register(), register()
        registry.set_alias("champion", second)
        location, tags = registry.bundle(second), registry.tags(second)
        self.inner.remove(second)
        assert registry.aliases() == {}
        assert (registry.bundle(second), registry.tags(second)) == (location, tags)
        registry.tag(second, {"verdict": "reject"})
        with pytest.raises(NotFoundError, match=f"version {second} any more: `evergreen repair registry`"):
            registry.set_alias("champion", second)
        assert [found.version for found in registry.find()] == [second, first]
        assert register() == second + 1
        assert registry.repair(second)
        assert not registry.repair(second)
        registry.set_alias("champion", second)
        assert registry.aliases() == {"champion": second}
        assert self.inner.tags(self.inner.aliases()["champion"])["verdict"] == "reject"


def test_after_the_registered_model_was_renamed_numbers_go_on(
    registry: RecordedRegistry, inner: Breakable, stored_bundle: StoredBundle
) -> None:
    """MLflow's begin at 1 again, which meant two models by one number."""
    folder, info, _ = stored_bundle
    old = registry.register("run-1", folder, info, {})
    where = registry.bundle(old)
    inner.clear()
    new = registry.register("run-2", folder, info, {})
    assert (old, new, inner.find()[0].version) == (1, 2, 1)
    assert registry.bundle(old) == where != registry.bundle(new)
    registry.set_alias("champion", new)
    assert (registry.aliases(), inner.aliases()) == ({"champion": 2}, {"champion": 1})
    with pytest.raises(NotFoundError):
        registry.set_alias("champion", old)
    assert registry.repair(old)
    registry.set_alias("previous", old)
    assert (registry.aliases(), inner.aliases()) == ({"champion": 2, "previous": 1}, {"champion": 1, "previous": 2})
    assert registry.version_url(old).endswith("/2"), "where people find it"


def test_versions_made_before_there_was_the_table_are_recorded_when_they_are_asked_for(
    registry: RecordedRegistry, inner: Breakable
) -> None:
    inner.add(4, "p/4", "d4", run_id="r4", cycle="c", dataset_version="v")
    inner.add(7, "p/7", "d7", cycle="c")
    assert [found.version for found in registry.find(cycle="c")] == [7, 4]
    inner.remove(4)
    assert registry.bundle(4) == BundleLocation("p/4", "d4")
    assert registry.tags(4)["dataset_version"] == "v"
    assert [found.run_id for found in registry.find(dataset_version="v")] == ["r4"], "MLflow asks for it at a repair"


def test_what_was_deployed_before_counts_more_than_a_number_that_was_used_again(
    ctx: Context, registry: RecordedRegistry, inner: Breakable
) -> None:
    cycles.open_cycle(ctx.engine, "c1", "manual")
    cycles.record(ctx.engine, "c1", model_version=1, run_id="r1")
    deploy(ctx, "p/old", "d-old", 1)
    inner.add(1, "p/new", "d-new", cycle="c9")  # the registered model was renamed before the upgrade
    assert registry.bundle(1) == BundleLocation("p/old", "d-old")
    assert registry.tags(1)["cycle"] == "c1"
    assert [(found.version, found.tags["bundle_digest"]) for found in registry.find(cycle="c9")] == [(2, "d-new")]


def test_of_two_bundles_that_were_deployed_by_one_number_the_newest_has_it(
    ctx: Context, registry: RecordedRegistry, inner: Breakable
) -> None:
    """The registered model was renamed and both were live, all before the upgrade; every release failed then."""
    deploy(ctx, "p/old", "d-old", 1)
    deploy(ctx, "p/new", "d-new", 1)
    inner.add(1, "p/new", "d-new")
    inner.set_alias("champion", 1)
    assert registry.bundle(1) == BundleLocation("p/new", "d-new")
    assert registry.aliases() == {"champion": 1}
    assert not registry.repair(1)


def test_a_deployed_version_is_known_though_mlflow_is_away(
    ctx: Context, registry: RecordedRegistry, inner: Breakable
) -> None:
    deploy(ctx, "p/1", "d1", 1)
    inner.add(1, "p/1", "d1", dataset_version="v")
    inner.is_away = True
    assert registry.bundle(1) == BundleLocation("p/1", "d1")
    with pytest.raises(UnavailableError):
        registry.bundle(2)
    inner.is_away = False
    assert registry.tags(1)["dataset_version"] == "v", "what it said while MLflow was away is not all there is"


def test_a_bundle_that_was_registered_twice_by_hand_is_one_version(
    registry: RecordedRegistry, inner: Breakable
) -> None:
    inner.add(1, "p/1", "d1")
    inner.add(2, "p/1", "d1")
    assert registry.bundle(1).prefix == "p/1"
    with pytest.raises(NotFoundError, match="version 2 of MLflow is version 1 here: name that one"):
        registry.bundle(2)
    inner.set_alias("champion", 2)
    assert registry.aliases() == {"champion": 1}


def test_many_at_once_get_a_number_each(ctx: Context, inner: Breakable, stored_bundle: StoredBundle) -> None:
    folder, info, _ = stored_bundle

    def register(i: int) -> int:
        own = MemoryRegistry()  # each says that its version is number 1
        return RecordedRegistry(ctx.engine, own).register(f"run-{i}", folder, info, {})

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(register, range(16))) == list(range(1, 17))


def test_a_rewritten_bundle_keeps_its_number(ctx: Context, registry: RecordedRegistry, inner: Breakable) -> None:
    """An erasure cuts probes out of it, so its digest changes."""
    inner.add(1, "p/1", "d1")
    registry.tag(1, {"bundle_digest": "d2"})
    assert registry.bundle(1) == BundleLocation("p/1", "d2") == inner.bundle(1)
    with transaction(ctx.engine) as connection:
        connection.execute(update(model_versions).values(registered_version=None))
    registry.set_alias("champion", 1)
    assert inner.aliases() == {"champion": 1}, "found by its digest"
