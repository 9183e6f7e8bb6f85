"""The parts of the local stack: their commands and health checks."""

import http.client
import shutil
import signal
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psycopg2

from infra.local import airflow, postgres
from infra.local.layout import REPO, Layout
from ml.cores import available_cores
from ml.settings import Settings


@dataclass(frozen=True)
class Component:
    """A process under the manager.

    `healthy` is its health check, which must be quick. Folders in `fresh` are emptied at each start.
    """

    name: str
    command: list[str]
    address: str
    healthy: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_signal: signal.Signals = signal.SIGTERM
    priority: int = 500
    fresh: tuple[Path, ...] = ()


def all_parts(layout: Layout) -> list[Component]:
    """In the order in which they are started; they are stopped in the reverse."""
    return [_postgres(layout), _s3(layout), _mlflow(layout), _service(layout), *_airflow(layout)]


def _postgres(layout: Layout) -> Component:
    def healthy() -> bool:
        try:
            psycopg2.connect(
                host="127.0.0.1",
                port=layout.ports["postgres"],
                user="postgres",
                password=layout.secrets["postgres"],
                dbname="postgres",
                connect_timeout=2,
            ).close()
        except psycopg2.Error:
            return False
        return True

    command = postgres.command(layout.home / "postgres", layout.ports["postgres"])
    return Component("postgres", command, layout.address("postgres"), healthy, stop_signal=signal.SIGINT, priority=100)


def s3_command(data: Path, port: int, access_key: str, secret_key: str) -> tuple[list[str], dict[str, str]]:
    """What to run in the foreground, and the environment it needs; secrets stay off the command line.

    A `minio` binary when PATH has one, else `rclone serve s3` from its wheel.
    """
    data.mkdir(parents=True, exist_ok=True)
    if minio := shutil.which("minio"):
        environment = {"MINIO_ROOT_USER": access_key, "MINIO_ROOT_PASSWORD": secret_key, "MINIO_BROWSER": "off"}
        return [minio, "server", "--address", f"127.0.0.1:{port}", str(data)], environment
    # rclone reads the variable as a CSV line of pairs, so the pair, itself with a comma, is quoted.
    environment = {"RCLONE_AUTH_KEY": f'"{access_key},{secret_key}"', "RCLONE_CONFIG": "/dev/null"}
    arguments = ["serve", "s3", "--addr", f"127.0.0.1:{port}", "--vfs-cache-mode", "off", "--log-level", "NOTICE"]
    # Without it rclone hashes each object once more to compare what it wrote with what came: half of an upload's time.
    arguments.append("--ignore-checksum")
    return [str(Path(sysconfig.get_path("scripts")) / "rclone"), *arguments, str(data)], environment


def _s3(layout: Layout) -> Component:
    address = layout.address("s3")
    command, environment = s3_command(layout.home / "s3", layout.ports["s3"], "evergreen", layout.secrets["s3"])
    # Any response to an unsigned request will do.
    return Component("s3", command, address, lambda: _get(address, "/") is not None, environment, priority=100)


def mlflow_command(settings: Settings, database_url: str, port: int) -> tuple[list[str], dict[str, str]]:
    """As `s3_command`: MLflow on Postgres.

    Its artifacts are in the bucket and proxied, so clients need no S3 keys.
    """
    environment = {
        "MLFLOW_BACKEND_STORE_URI": database_url,
        "MLFLOW_S3_ENDPOINT_URL": settings.s3_endpoint,
        "AWS_ACCESS_KEY_ID": settings.s3_access_key,
        "AWS_SECRET_ACCESS_KEY": settings.s3_secret_key.get_secret_value(),
        "AWS_DEFAULT_REGION": settings.s3_region,
        # The job runner is eight processes and a gigabyte for features that nothing here uses.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    destination = f"s3://{settings.artifacts_bucket}/{settings.artifacts_prefix}"
    return [
        str(Path(sysconfig.get_path("scripts")) / "mlflow"),
        *("server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--artifacts-destination", destination),
    ], environment


def _mlflow(layout: Layout) -> Component:
    command, environment = mlflow_command(layout.settings(), layout.database("mlflow"), layout.ports["mlflow"])
    address = layout.address("mlflow")
    return Component(
        "mlflow", command, f"http://{address}", lambda: _is_ok(address, "/health"), environment, priority=200
    )


def _service(layout: Layout) -> Component:
    settings = layout.settings()
    address = layout.address("service")
    metrics = layout.home / "metrics"
    workers = settings.service_workers or available_cores()
    command = [
        *(sys.executable, "-m", "serving", "--host", settings.service_host, "--port", str(layout.ports["service"])),
        *("--workers", str(workers)),
    ]
    environment = {
        "EVERGREEN_HOME": str(layout.home),
        "PROMETHEUS_MULTIPROC_DIR": str(metrics),
        "PYTHONPATH": str(REPO),
    }
    if settings.log_format == "json":
        environment["UVICORN_LOG_CONFIG"] = str(REPO / "serving" / "uvicorn_json.json")
    return Component(
        "service",
        command,
        f"http://{address}",
        lambda: _is_ok(address, "/healthz"),
        environment,
        priority=300,
        fresh=(metrics,),
    )


def _airflow(layout: Layout) -> list[Component]:
    url = f"http://{layout.address('airflow')}"
    environment = airflow.environment(layout) | {"EVERGREEN_HOME": str(layout.home)}
    health = _AirflowHealth(layout.address("airflow"))
    health_names = {
        "airflow-api": "metadatabase",
        "airflow-scheduler": "scheduler",
        "airflow-dags": "dag_processor",
        "airflow-triggerer": "triggerer",
    }
    return [
        Component(
            name,
            command,
            url if name == "airflow-api" else "",
            health.of(health_names[name]),
            environment,
            priority=400,
        )
        for name, command in airflow.commands(layout).items()
    ]


class _AirflowHealth:
    """The health of Airflow's components from its API; one request is shared by concurrent checks."""

    _CACHE_SECONDS = 0.5

    def __init__(self, address: str) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._health: Mapping[str, Any] = {}
        self._at = float("-inf")

    def of(self, component: str) -> Callable[[], bool]:
        """The health check of a component."""

        def healthy() -> bool:
            status = self._read().get(component)
            return isinstance(status, dict) and status.get("status") == "healthy"

        return healthy

    def _read(self) -> Mapping[str, Any]:
        with self._lock:
            if time.monotonic() - self._at > self._CACHE_SECONDS:
                self._health = self._fetch()
                self._at = time.monotonic()
            return self._health

    def _fetch(self) -> Mapping[str, Any]:
        status, body = _get(self._address, "/api/v2/monitor/health") or (0, b"")
        try:
            health = orjson.loads(body) if status == 200 else {}
        except orjson.JSONDecodeError:
            return {}
        return health if isinstance(health, dict) else {}


def _is_ok(address: str, path: str) -> bool:
    return (_get(address, path) or (0, b""))[0] == 200


def _get(address: str, path: str, seconds: float = 5) -> tuple[int, bytes] | None:
    """Status and body; None if there is no response. A minimal client, since checks are frequent."""
    connection = http.client.HTTPConnection(address, timeout=seconds)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
