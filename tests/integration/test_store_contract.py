"""A bucket of a real S3 server does what the store in memory does."""

import uuid

import pytest
from pydantic import SecretStr

from ml.errors import NotFoundError
from ml.settings import Settings
from ml.storage import object_store
from ml.storage.object_store import S3ObjectStore
from tests.contracts.object_store import ObjectStoreContract
from tests.servers import PASSWORD, Servers


def connect(servers: Servers) -> S3ObjectStore:
    """A bucket that does not exist yet."""
    settings = Settings(s3_endpoint=f"http://127.0.0.1:{servers.s3_port}", s3_secret_key=SecretStr(PASSWORD))
    return object_store.connect(settings, f"t{uuid.uuid4().hex[:12]}")


class TestS3ObjectStore(ObjectStoreContract):
    @pytest.fixture
    def store(self, servers: Servers) -> S3ObjectStore:
        store = connect(servers)
        store.ensure_bucket()
        return store

    @pytest.fixture
    def other_store(self, servers: Servers) -> S3ObjectStore:
        store = connect(servers)
        store.ensure_bucket()
        return store


def test_a_bucket_is_created_once_and_missing_before(servers: Servers) -> None:
    store = connect(servers)
    with pytest.raises(NotFoundError):
        store.get("a")
    with pytest.raises(NotFoundError):
        list(store.list())
    store.ensure_bucket()
    store.put("a", b"1")
    store.ensure_bucket()
    assert store.get("a") == b"1"
