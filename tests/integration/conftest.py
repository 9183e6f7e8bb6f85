"""Fixtures of systems that hold data already; what is costly to make is made once a process and copied."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest

from ml.context import Context, connect
from ml.ingest import ingest
from tests.file_registry import install
from tests.gates import Gate
from tests.pictures import digit_files, upload
from tests.servers import Servers


@pytest.fixture(scope="session")
def ingested_digits(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], tuple[Context, str]]:
    """A system, to copy and not to change, whose drop ``one`` holds so many digits; and its dataset version."""

    @lru_cache
    def ingested(count: int) -> tuple[Context, str]:
        ctx = connect(servers.migrated(tmp_path_factory.mktemp("home")))
        version = ingest(ctx, upload(ctx, "one", digit_files(0, count))).version
        if version is None:
            raise RuntimeError(f"no dataset version was made of {count} digits")
        return ctx, version

    return ingested


@pytest.fixture
def make_gate(
    servers: Servers, ingested_digits: Callable[[int], tuple[Context, str]], tmp_path: Path
) -> Callable[..., Gate]:
    """A gate in a system of its own, with settings of the test's choice, over a version of so many digits."""

    def make(digits: int = 700, **overrides: object) -> Gate:
        original, version = ingested_digits(digits)
        ctx = connect(servers.copied(original, tmp_path / "home", **overrides))
        return Gate(ctx, install(ctx, tmp_path / "registry.json"), tmp_path, version)

    return make


@pytest.fixture
def gate(make_gate: Callable[..., Gate]) -> Gate:
    return make_gate()
