"""The registry in memory, which other tests rely on, does what MLflow's does (see `test_registry_contract`)."""

import itertools
from collections.abc import Callable

import pytest

from ml.errors import NotFoundError
from tests.contracts.registry import RegistryContract, stored_bundle
from tests.doubles.registry import MemoryRegistry

__all__ = ["stored_bundle"]


class TestMemoryRegistry(RegistryContract):
    @pytest.fixture
    def registry(self) -> MemoryRegistry:
        return MemoryRegistry()

    @pytest.fixture
    def new_run(self) -> Callable[[], str]:
        numbers = itertools.count(1)
        return lambda: f"run-{next(numbers)}"

    @pytest.fixture
    def delete(self, registry: MemoryRegistry) -> Callable[[int], None]:
        return registry.remove


def test_a_version_may_have_no_bundle() -> None:
    registry = MemoryRegistry()
    registry.add(1, "p", None)
    with pytest.raises(NotFoundError, match="no bundle"):
        registry.bundle(1)
