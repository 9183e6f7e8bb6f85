"""The parts of the local stack: how each is run, and how one sees that it is well."""

import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import httpx
import psycopg2

from infra.local import airflow, mlflow, postgres, s3
from infra.local.layout import REPO, Layout

HOME_VARIABLE = "STACK_OF_EVERGREEN"


@dataclass(frozen=True)
class Part:
    """A process under the manager. `healthy` asks it; it must answer quickly or be taken as not well."""

    name: str
    command: list[str]
    address: str
    healthy: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_signal: signal.Signals = signal.SIGTERM
    priority: int = 500


def all_parts(layout: Layout) -> list[Part]:
    """In the order in which they are started; they are stopped in the reverse."""
    return [_postgres(layout), _s3(layout), _mlflow(layout), _service(layout), *_airflow(layout)]


def _postgres(layout: Layout) -> Part:
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
    return Part("postgres", command, layout.address("postgres"), healthy, stop_signal=signal.SIGINT, priority=100)


def _s3(layout: Layout) -> Part:
    def healthy() -> bool:
        try:
            socket.create_connection(("127.0.0.1", layout.ports["s3"]), timeout=2).close()
        except OSError:
            return False
        return True

    command, environment = s3.command(layout.home / "s3", layout.ports["s3"], "evergreen", layout.secrets["s3"])
    return Part("s3", command, layout.address("s3"), healthy, environment, priority=100)


def _mlflow(layout: Layout) -> Part:
    command, environment = mlflow.command(layout.settings(), layout.database("mlflow"), layout.ports["mlflow"])
    url = f"http://{layout.address('mlflow')}"
    return Part("mlflow", command, url, lambda: _answers(f"{url}/health"), environment, priority=200)


def _service(layout: Layout) -> Part:
    settings = layout.settings()
    url = f"http://{layout.address('service')}"
    workers = settings.service_workers or os.cpu_count() or 1
    command = [
        *(sys.executable, "-m", "uvicorn", "serving.app:create_app", "--factory"),
        *("--host", settings.service_host, "--port", str(settings.service_port), "--workers", str(workers)),
        *("--no-access-log", "--timeout-graceful-shutdown", "10"),
    ]
    environment = {
        "EVERGREEN_HOME": str(layout.home),
        "PROMETHEUS_MULTIPROC_DIR": str(layout.home / "metrics"),
        "PYTHONPATH": str(REPO),
    }
    return Part("service", command, url, lambda: _answers(f"{url}/healthz"), environment, priority=300)


def _airflow(layout: Layout) -> list[Part]:
    url = f"http://{layout.address('airflow')}"
    environment = airflow.environment(layout) | {"EVERGREEN_HOME": str(layout.home)}
    told = {
        "airflow-api": "metadatabase",
        "airflow-scheduler": "scheduler",
        "airflow-dags": "dag_processor",
        "airflow-triggerer": "triggerer",
    }
    return [
        Part(
            name, command, url if name == "airflow-api" else "", _component(url, told[name]), environment, priority=400
        )
        for name, command in airflow.commands(layout).items()
    ]


def _component(url: str, name: str) -> Callable[[], bool]:
    def healthy() -> bool:
        try:
            answer = httpx.get(f"{url}/api/v2/monitor/health", timeout=2)
            return bool(answer.status_code == 200 and answer.json()[name]["status"] == "healthy")
        except (httpx.HTTPError, ValueError, KeyError):
            return False

    return healthy


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
