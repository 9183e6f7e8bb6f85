"""What every `Registry` does. A subclass with the fixtures `registry`, `new_run` and `delete` runs the tests."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from ml.errors import NotFoundError
from ml.models import bundle
from ml.models.bundle import BundleInfo
from ml.models.registry import Registry


class StoredBundle(NamedTuple):
    folder: Path
    info: BundleInfo
    digest: str


@pytest.fixture
def stored_bundle(tmp_path: Path) -> StoredBundle:
    folder = tmp_path / "a folder of another name"
    folder.mkdir()
    (folder / bundle.MODEL).write_bytes(b"model")
    info = BundleInfo(
        architecture="linear",
        labels=("a", "b"),
        image_size=8,
        channels=1,
        dataset_version="d" * 64,
        run_id="r",
        code_version="test",
        seed=0,
        class_shares={"a": 0.5, "b": 0.5},
        files={},
    )
    return StoredBundle(folder, info, bundle.write(folder, info))


class RegistryContract:
    @pytest.fixture
    def registry(self) -> Registry:
        """Of a model that was never registered."""
        raise NotImplementedError

    @pytest.fixture
    def new_run(self) -> Callable[[], str]:
        """Returns the id of another run each time."""
        raise NotImplementedError

    @pytest.fixture
    def delete(self, registry: Registry) -> Callable[[int], None]:
        """Deletes a version, as a person can."""
        raise NotImplementedError

    @pytest.fixture
    def register(
        self, registry: Registry, new_run: Callable[[], str], stored_bundle: StoredBundle
    ) -> Callable[..., int]:
        """Registers one more version with the given tags."""
        return lambda **tags: registry.register(new_run(), stored_bundle.folder, stored_bundle.info, tags)

    def test_a_model_that_was_never_registered(self, registry: Registry) -> None:
        assert registry.aliases() == {}
        assert registry.alias("champion") is None
        assert registry.find() == []
        assert registry.find(cycle="c") == []
        for call in (
            lambda: registry.set_alias("champion", 1),
            lambda: registry.set_alias("champion", None),
            lambda: registry.tags(1),
            lambda: registry.tag(1, {"a": 1}),
            lambda: registry.bundle(1),
        ):
            with pytest.raises(NotFoundError):
                call()

    def test_a_missing_version_is_not_found_and_changes_nothing(
        self, registry: Registry, register: Callable[..., int]
    ) -> None:
        version = register()
        registry.set_alias("champion", version)
        missing = version + 1
        for call in (
            lambda: registry.set_alias("champion", missing),
            lambda: registry.tags(missing),
            lambda: registry.tag(missing, {"a": 1}),
            lambda: registry.bundle(missing),
        ):
            with pytest.raises(NotFoundError, match=f"version {missing}|alias `champion`"):
                call()
        assert registry.aliases() == {"champion": version}
        assert [found.version for found in registry.find()] == [version]

    def test_a_run_has_one_version(
        self, registry: Registry, new_run: Callable[[], str], stored_bundle: StoredBundle
    ) -> None:
        folder, info, _ = stored_bundle
        runs = [new_run(), new_run()]
        assert registry.register(runs[0], folder, info, {"cycle": "one"}) == 1
        assert registry.register(runs[0], folder, info, {"cycle": "later"}) == 1
        assert registry.register(runs[1], folder, info, {"cycle": "two"}) == 2
        assert [(found.version, found.run_id) for found in registry.find()] == [(2, runs[1]), (1, runs[0])]
        assert registry.tags(1)["cycle"] == "one"

    def test_a_version_says_what_it_is(
        self, registry: Registry, new_run: Callable[[], str], stored_bundle: StoredBundle
    ) -> None:
        folder, info, digest = stored_bundle
        run = new_run()
        version = registry.register(run, folder, info, {"cycle": "c", "refreshes": "0"}, "# Title\n\ntext")
        tags = {"bundle_digest": digest, "dataset_version": "d" * 64, "cycle": "c", "refreshes": "0"}
        assert registry.tags(version) == tags
        assert [found.tags for found in registry.find()] == [tags]
        location = registry.bundle(version)
        assert location.digest == digest
        assert location.prefix.endswith(f"{run}/artifacts/model/data/bundle")
        assert registry.version_url(version).endswith(f"/versions/{version}")

    def test_tags_are_strings_and_the_others_stay(self, registry: Registry, register: Callable[..., int]) -> None:
        first, second = register(cycle="c"), register(cycle="c")
        registry.tag(first, {"verdict": "promote", "accuracy": 0.5, "count": 3})
        registry.tag(first, {"verdict": "reject: 100 % of “a b”, it's 'worse'"})
        registry.tag(first, {})
        tags = registry.tags(first)
        assert tags["verdict"] == "reject: 100 % of “a b”, it's 'worse'"
        assert (tags["cycle"], tags["accuracy"], tags["count"]) == ("c", "0.5", "3")
        assert registry.tags(second).keys() == {"bundle_digest", "dataset_version", "cycle"}

    def test_versions_are_found_by_all_of_the_tags(self, registry: Registry, register: Callable[..., int]) -> None:
        for cycle, kind in (("one", "a"), ("two", "a"), ("two", "b"), ("two", "b")):
            register(cycle=cycle, kind=kind)
        registry.tag(4, {"kind": "c"})

        def found(**tags: str) -> list[int]:
            return [version.version for version in registry.find(**tags)]

        assert found() == [4, 3, 2, 1]
        assert found(cycle="two") == [4, 3, 2]
        assert found(cycle="two", kind="b") == [3]
        assert found(cycle="one", kind="b") == []
        assert found(cycle="on") == []
        assert found(other="x") == []

    def test_an_alias_names_one_version(self, registry: Registry, register: Callable[..., int]) -> None:
        first, second = register(), register()
        registry.set_alias("champion", first)
        registry.set_alias("challenger", second)
        assert registry.aliases() == {"champion": first, "challenger": second}
        registry.set_alias("previous", first)
        registry.set_alias("champion", second)
        assert registry.aliases() == {"champion": second, "challenger": second, "previous": first}
        assert (registry.alias("champion"), registry.alias("previous")) == (second, first)
        registry.set_alias("champion", second)
        registry.set_alias("challenger", None)
        registry.set_alias("challenger", None)
        assert registry.alias("challenger") is None
        assert registry.aliases() == {"champion": second, "previous": first}

    def test_a_deleted_version_loses_its_aliases_and_its_number_is_not_used_again(
        self, registry: Registry, register: Callable[..., int], delete: Callable[[int], None]
    ) -> None:
        first, second = register(), register()
        registry.set_alias("previous", first)
        registry.set_alias("champion", second)
        delete(second)
        assert registry.aliases() == {"previous": first}
        assert [found.version for found in registry.find()] == [first]
        with pytest.raises(NotFoundError):
            registry.bundle(second)
        with pytest.raises(NotFoundError):
            registry.set_alias("champion", second)
        assert register() == second + 1
