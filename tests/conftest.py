"""Fixtures for tests that need real servers; a session starts each at most once."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ml.context import Context, connect
from ml.cores import available_cores
from ml.settings import Settings
from tests import servers as real
from tests.servers import Servers

# Their modules are not named `test_*`; without it a failed assertion would not show its values.
pytest.register_assert_rewrite("tests.contracts")

# Servers and tests share few cores: threads that wait for each other cost twice what one thread does.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Processes of pytest-xdist have a width set, which a console that is made at import would keep for good.
os.environ.pop("COLUMNS", None)

_UNIT = Path(__file__).with_name("unit")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast-cov", action="store_true", help="measure coverage in unit tests only: it slows the others")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--fast-cov"):
        for item in items:
            if _UNIT not in item.path.parents:
                item.add_marker("no_cover")


def pytest_xdist_auto_num_workers() -> int:
    """Tests wait for servers and other processes, which leaves a quarter of the cores idle at fewer."""
    return 2 * available_cores()


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Postgres and S3."""
    with real.storage(tmp_path_factory.mktemp("servers")) as running:
        yield running


@pytest.fixture(scope="session")
def mlflow_url(servers: Servers) -> Iterator[str]:
    with real.mlflow_server(servers) as url:
        yield url


@pytest.fixture
def settings(servers: Servers, tmp_path: Path) -> Settings:
    """A system of its own: empty database, empty buckets, own data folder."""
    return servers.settings(tmp_path / "home")


@pytest.fixture
def make_context(servers: Servers, tmp_path: Path) -> Callable[..., Context]:
    """A migrated system with settings of the test's choice."""

    def make(**overrides: object) -> Context:
        return connect(servers.migrated(tmp_path / "home", **overrides))

    return make


@pytest.fixture
def context(make_context: Callable[..., Context]) -> Context:
    return make_context()


@pytest.fixture
def context_with_mlflow(
    make_context: Callable[..., Context], mlflow_url: str, request: pytest.FixtureRequest
) -> Context:
    """As `context`, with an MLflow server and a registered-model name of its own."""
    name = f"classifier-{abs(hash(request.node.nodeid)):x}"
    return make_context(mlflow_url=mlflow_url, model_name=name, experiment=name, epochs=8)
