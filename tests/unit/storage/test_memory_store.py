"""The store in memory, which other tests rely on, does what a bucket does (see `test_store_contract`)."""

import pytest

from ml.errors import UnavailableError
from tests.contracts.object_store import ObjectStoreContract
from tests.doubles.object_store import MemoryObjectStore


class TestMemoryObjectStore(ObjectStoreContract):
    @pytest.fixture
    def server(self) -> dict[str, MemoryObjectStore]:
        return {}

    @pytest.fixture
    def store(self, server: dict[str, MemoryObjectStore]) -> MemoryObjectStore:
        return MemoryObjectStore(bucket="one", server=server)

    @pytest.fixture
    def other_store(self, server: dict[str, MemoryObjectStore]) -> MemoryObjectStore:
        return MemoryObjectStore(bucket="two", server=server)


def test_a_store_that_is_not_available_says_so() -> None:
    store = MemoryObjectStore({"a": b"1"})
    store.available = False
    for call in (
        lambda: store.get("a"),
        lambda: store.put("a", b"2"),
        lambda: store.info("a"),
        lambda: store.exists("a"),
        lambda: list(store.list()),
        lambda: store.copy("a", "b"),
        lambda: store.delete(["a"]),
    ):
        with pytest.raises(UnavailableError):
            call()
    assert [type(result) for result in store.get_many(["a"])] == [UnavailableError]
    assert store.objects == {"a": b"1"}
