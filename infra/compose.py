"""The stack in containers: makes the secrets' file, starts and stops `docker-compose.yml`."""

import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

from cryptography.fernet import Fernet
from dotenv import dotenv_values

from infra.local.layout import PORTS, REPO, write_private
from ml.errors import InvalidInputError, UnavailableError
from ml.settings import PREFIX, Settings

ENV_FILE = ".env"
_PASSWORDS = (
    "POSTGRES_PASSWORD",
    "CATALOG_DB_PASSWORD",
    "AIRFLOW_DB_PASSWORD",
    "MLFLOW_DB_PASSWORD",
    "S3_SECRET_KEY",
    "AIRFLOW_ADMIN_PASSWORD",
    "AIRFLOW_API_SECRET",
)


def ensure_env(repo: Path = REPO) -> dict[str, str]:
    """The secrets in `.env`, made at the first call, readable by the owner only."""
    path = repo / ENV_FILE
    if not path.exists():
        made = {name: secrets.token_urlsafe(24) for name in _PASSWORDS}
        made["AIRFLOW_JWT_SECRET"] = secrets.token_urlsafe(72)
        made["AIRFLOW_FERNET_KEY"] = Fernet.generate_key().decode()
        write_private(path, "".join(f"{k}={v}\n" for k, v in made.items()).encode())
    return {k: v for k, v in dotenv_values(path).items() if v}


def up(repo: Path = REPO) -> Settings:
    """Build, start, and wait until every container is healthy; the settings to reach it from this machine.

    Raises:
        InvalidInputError: neither `docker compose` nor `docker-compose` is installed.
        UnavailableError: building or starting failed; the output was shown.
    """
    told = ensure_env(repo)
    _compose(repo, "build")
    _compose(repo, "up", "-d")
    _wait(repo)
    return Settings.load({**os.environ, **_host_environment(repo, told)})


def down(repo: Path = REPO) -> None:
    """Stop and remove the containers; volumes stay."""
    ensure_env(repo)
    _compose(repo, "down")


def _host_environment(repo: Path, told: dict[str, str]) -> dict[str, str]:
    password = told["CATALOG_DB_PASSWORD"]
    values = {
        "HOME": str(repo / "build" / "compose"),
        "DATABASE_URL": f"postgresql+psycopg2://evergreen:{password}@127.0.0.1:{PORTS['postgres']}/evergreen",
        "S3_ENDPOINT": f"http://127.0.0.1:{PORTS['s3']}",
        "S3_ACCESS_KEY": "evergreen",
        "S3_SECRET_KEY": told["S3_SECRET_KEY"],
        "MLFLOW_URL": f"http://127.0.0.1:{PORTS['mlflow']}",
        "AIRFLOW_URL": f"http://127.0.0.1:{PORTS['airflow']}",
        "SERVICE_URL": f"http://127.0.0.1:{PORTS['service']}",
        "EXPECTATIONS": str(repo / "expectations"),
    }
    return {PREFIX + name: value for name, value in values.items()}


def _wait(repo: Path, seconds: int = 180) -> None:
    """The service and Airflow's four parts; each has a health check of its own."""
    import time

    import httpx

    deadline = time.monotonic() + seconds
    health = f"http://127.0.0.1:{PORTS['airflow']}/api/v2/monitor/health"
    while time.monotonic() < deadline:
        try:
            airflow = httpx.get(health, timeout=3).json()
            service = httpx.get(f"http://127.0.0.1:{PORTS['service']}/healthz", timeout=3).status_code
            mlflow = httpx.get(f"http://127.0.0.1:{PORTS['mlflow']}/health", timeout=3).status_code
            if service == mlflow == 200 and all(part["status"] == "healthy" for part in airflow.values()):
                return
        except (httpx.HTTPError, ValueError, TypeError, KeyError):
            pass
        time.sleep(1)
    subprocess.run([*_command(), "ps"], cwd=repo, check=False)
    raise UnavailableError(f"the containers are not healthy after {seconds} s; `docker compose logs` tells more")


def _compose(repo: Path, *arguments: str) -> None:
    if subprocess.run([*_command(), *arguments], cwd=repo, check=False).returncode:
        raise UnavailableError(f"`{' '.join(_command())} {' '.join(arguments)}` failed; its output is above")


def _command() -> list[str]:
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    if (
        shutil.which("docker")
        and not subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode
    ):
        return ["docker", "compose"]
    raise InvalidInputError("neither `docker compose` nor `docker-compose` is installed; the local stack needs neither")


if __name__ == "__main__":
    {"up": up, "down": down, "env": ensure_env}[sys.argv[1] if len(sys.argv) > 1 else "up"]()
