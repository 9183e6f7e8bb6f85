"""Real servers for tests: Postgres, S3 and MLflow as child processes on free ports, gone with the test run."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import httpx
import psycopg2
from pydantic import SecretStr
from sqlalchemy import NullPool, create_engine, text

from infra.local import components, postgres
from ml.catalog.migrate import migrate
from ml.context import Context
from ml.errors import EvergreenError
from ml.settings import Settings
from ml.storage import object_store

PASSWORD = "tests-only"
_TEMPLATE = "migrated"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], what: str = "condition", *, seconds: float = 300) -> None:
    """Until it holds. The bound only ends a test that fails, so it is long: busy machines are slow, not broken."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, psycopg2.Error, httpx.HTTPError, EvergreenError):
            if condition():
                return
        time.sleep(0.1)
    raise TimeoutError(f"{what}: not within {seconds} s")


@contextmanager
def process(command: list[str], environment: dict[str, str], log: Path, stop: int = signal.SIGTERM) -> Iterator[int]:
    """The command in its own process group, ended with `stop`, and with SIGKILL if that does not help."""
    with log.open("ab") as output:
        child = subprocess.Popen(
            command, env=os.environ | environment, stdout=output, stderr=output, cwd="/", start_new_session=True
        )
    try:
        yield child.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, stop)
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait(60)


@dataclass(frozen=True)
class Servers:
    """Addresses of the running servers; `settings` makes a fresh database and buckets there."""

    folder: Path
    postgres_port: int
    s3_port: int

    def database(self, name: str) -> str:
        postgres.ensure_database("127.0.0.1", self.postgres_port, PASSWORD, name, PASSWORD)
        return f"postgresql+psycopg2://{name}:{PASSWORD}@127.0.0.1:{self.postgres_port}/{name}"

    def settings(self, home: Path, **overrides: object) -> Settings:
        """Settings of an empty system of its own: new database (not migrated), new buckets."""
        name = _new_name()
        return self._settings(home, name, self.database(name), overrides)

    def migrated(self, home: Path, **overrides: object) -> Settings:
        """As `settings`, with the tables: a copy of a database that was migrated once, which is a fifth of the work."""
        return self._copied_database(self._migrated_database, home, overrides)

    def copied(self, original: Context, home: Path, **overrides: object) -> Settings:
        """As `migrated`, with what the original's database and store hold.

        The bucket for labels is empty: nothing reads a drop again once it is accepted, and an image is an object there.
        """
        original.engine.dispose()
        settings = self._copied_database(original.settings.database_url.get_secret_value(), home, overrides)
        store = object_store.connect(settings, settings.store_bucket)
        for item in original.store.list():
            store.put(item.key, original.store.get(item.key))
        return settings

    def _copied_database(self, template_url: str, home: Path, overrides: dict[str, object]) -> Settings:
        """Postgres copies no database that somebody is connected to."""
        name, (address, _, template) = _new_name(), template_url.rpartition("/")
        engine = create_engine(f"{self.superuser_url}/postgres", isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql(f"create database {name} template {template} owner {_TEMPLATE}")
        return self._settings(home, name, f"{address}/{name}", overrides)

    @property
    def superuser_url(self) -> str:
        """To which a slash and a database's name are added."""
        return f"postgresql+psycopg2://postgres:{PASSWORD}@127.0.0.1:{self.postgres_port}"

    @cached_property
    def _migrated_database(self) -> str:
        url = self.database(_TEMPLATE)
        engine = create_engine(url)
        migrate(engine)
        engine.dispose()
        return url

    def _settings(self, home: Path, name: str, database_url: str, overrides: dict[str, object]) -> Settings:
        values: dict[str, object] = {
            "home": home,
            "database_url": SecretStr(database_url),
            "s3_endpoint": f"http://127.0.0.1:{self.s3_port}",
            "s3_secret_key": SecretStr(PASSWORD),
            "api_keys": "loopback",
            "split_salt": SecretStr("evergreen-1"),  # the same splits in every run
            "labels_bucket": f"{name}-labels",
            "store_bucket": f"{name}-store",
            "artifacts_bucket": "mlflow",
            "expectations": Path(__file__).parent.parent / "expectations",
        }
        settings = Settings.model_validate(values | overrides)
        for bucket in (settings.labels_bucket, settings.store_bucket, settings.artifacts_bucket):
            object_store.connect(settings, bucket).ensure_bucket()
        return settings


def _new_name() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


@contextmanager
def storage(folder: Path) -> Iterator[Servers]:
    """Postgres and an S3 server."""
    servers = Servers(folder, free_port(), free_port())
    postgres.initialise(folder / "postgres", PASSWORD)
    command, environment = components.s3_command(folder / "s3", servers.s3_port, "evergreen", PASSWORD)
    # No test cuts the power: what is written need not reach the disk.
    database = [*postgres.command(folder / "postgres", servers.postgres_port), "-c", "fsync=off"]
    with (
        process(database, {}, folder / "pg.log", signal.SIGINT),
        process(command, environment, folder / "s3.log"),
    ):

        def postgres_answers() -> bool:
            with create_engine(f"{servers.superuser_url}/postgres").connect() as connection:
                return connection.execute(text("select 1")).scalar() == 1

        def s3_answers() -> bool:
            with socket.create_connection(("127.0.0.1", servers.s3_port), timeout=1):
                return True

        from sqlalchemy.exc import OperationalError

        def postgres_ready() -> bool:
            try:
                return postgres_answers()
            except OperationalError:
                return False

        wait_until(postgres_ready, what="Postgres")
        wait_until(s3_answers, what="the S3 server")
        yield servers


@contextmanager
def mlflow_server(servers: Servers) -> Iterator[str]:
    """An MLflow server on those; yields its URL."""
    port = free_port()
    settings = servers.settings(servers.folder)
    command, environment = components.mlflow_command(settings, servers.database("mlflow"), port)
    with process(command, environment, servers.folder / "mlflow.log"):
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: httpx.get(f"{url}/health").status_code == 200, what="MLflow")
        yield url


def stack_ports() -> dict[str, str]:
    """Free ports for a local stack of its own, as the environment that `evergreen up` reads."""
    parts = ("POSTGRES", "S3", "MLFLOW", "AIRFLOW", "SERVICE")
    return {f"EVERGREEN_PORT_{part}": str(free_port()) for part in parts}
