"""The stack in containers: makes the secrets' file, starts and stops `docker-compose.yml`.

`python -m infra.compose up | down | env` does the same from a shell.
"""

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from cryptography.fernet import Fernet
from dotenv import dotenv_values
from rich.console import Console

from infra.local.layout import PORTS, REPO, write_private
from ml.catalog import api_keys
from ml.errors import EvergreenError, InvalidInputError, UnavailableError
from ml.settings import ENV_FILE as SETTINGS_FILE
from ml.settings import PORT_PREFIX, PREFIX, Settings
from ml.training.tracking.lineage import code_version

ENV_FILE = ".env"
HOME = Path("build") / "compose"
_PASSWORDS = (
    "POSTGRES_PASSWORD",
    "CATALOG_DB_PASSWORD",
    "AIRFLOW_DB_PASSWORD",
    "MLFLOW_DB_PASSWORD",
    "S3_SECRET_KEY",
    "AIRFLOW_ADMIN_PASSWORD",
    "AIRFLOW_API_SECRET",
)
_PATIENCE = 600
_STATE = (
    '{{index .Config.Labels "com.docker.compose.service"}} {{.State.Status}} '
    "{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}} {{.State.ExitCode}}"
)


def ensure_env(repo: Path = REPO) -> dict[str, str]:
    """The variables in `.env`, readable by the owner only. What is missing is made; what is there never changes."""
    path = repo / ENV_FILE
    values = {k: v for k, v in dotenv_values(path).items() if v}
    generated = {name: secrets.token_urlsafe(24) for name in _PASSWORDS}
    generated |= {"SERVICE_API_KEY": api_keys.generate()}
    generated |= {"AIRFLOW_JWT_SECRET": secrets.token_urlsafe(72), "AIRFLOW_FERNET_KEY": Fernet.generate_key().decode()}
    if generated.keys() - values.keys():
        values = generated | values
        write_private(path, "".join(f"{k}={v}\n" for k, v in values.items()).encode())
    return values


def up(repo: Path = REPO) -> Settings:
    """Build, start, and wait until every container is healthy, its progress shown.

    Returns:
        The settings to reach the stack from this machine; `build/compose/evergreen.env` keeps them too.

    Raises:
        InvalidInputError: no compose is installed, or a port is no port.
        UnavailableError: building or starting failed; the output was shown.
    """
    host = host_environment(repo, ensure_env(repo))
    _compose(repo, "build")
    _start(repo, Console())
    folder = repo / HOME
    folder.mkdir(parents=True, exist_ok=True)
    write_private(folder / SETTINGS_FILE, "".join(f"{k}='{v}'\n" for k, v in host.items()).encode())
    return Settings.load({**os.environ, **host})


def down(repo: Path = REPO) -> None:
    """Stop and remove the containers; volumes stay."""
    ensure_env(repo)
    _compose(repo, "down")


def host_environment(repo: Path, env: Mapping[str, str]) -> dict[str, str]:
    """`EVERGREEN_*` variables for a process outside the containers, which sees the published ports.

    Args:
        repo: the checkout.
        env: the variables of `.env`; real environment variables win over it, as they do for compose.
    """
    at = {part: f"127.0.0.1:{port}" for part, port in _ports({**env, **os.environ}).items()}
    values = {
        "HOME": str(repo / HOME),
        "DATABASE_URL": f"postgresql+psycopg2://evergreen:{env['CATALOG_DB_PASSWORD']}@{at['postgres']}/evergreen",
        "S3_ENDPOINT": f"http://{at['s3']}",
        "S3_ACCESS_KEY": "evergreen",
        "S3_SECRET_KEY": env["S3_SECRET_KEY"],
        "MLFLOW_URL": f"http://{at['mlflow']}",
        "AIRFLOW_URL": f"http://{at['airflow']}",
        "SERVICE_URL": f"http://{at['service']}",
        "API_KEY": env["SERVICE_API_KEY"],
        "EXPECTATIONS": str(repo / "expectations"),
    }
    return {PREFIX + name: value for name, value in values.items()}


def _ports(environ: Mapping[str, str]) -> dict[str, int]:
    ports = {}
    for part, usual in PORTS.items():
        name = PORT_PREFIX + part.upper()
        value = environ.get(name) or str(usual)
        if not value.isdecimal() or not 0 < int(value) < 65536:
            raise InvalidInputError(f"`{name}` must be 1 to 65535; received {value!r}")
        ports[part] = int(value)
    return ports


def _start(repo: Path, console: Console) -> None:
    """`compose up`, and the containers' states as they change, until all are healthy and `init` has ended well."""
    began = time.monotonic()
    services = set(_output(repo, "config", "--services"))
    shown: set[str] = set()
    deadline = None
    with subprocess.Popen([*_command(), *_PLAIN, "up", "-d"], cwd=repo, env=_environment()) as starting:
        while True:
            for name in sorted(_ready_services(repo) - shown):
                state = "done" if name == "init" else "healthy"
                console.print(f"  [green]●[/] {name:18} {state}  [dim]{time.monotonic() - began:.1f} s[/]")
                shown.add(name)
                deadline = None  # there is progress
            if starting.poll() is not None:
                if starting.returncode:
                    _compose(repo, "logs", "--tail", "20", "init")
                    raise UnavailableError("the containers do not start; the output of compose and init is above")
                if services <= shown:
                    return
                deadline = deadline or time.monotonic() + _PATIENCE
                if time.monotonic() > deadline:
                    _compose(repo, "ps")
                    raise UnavailableError(
                        f"not healthy, and no other became so in {_PATIENCE} s: {', '.join(sorted(services - shown))}; "
                        f"`{' '.join(_command())} logs NAME` shows more"
                    )
            time.sleep(0.5)


def _ready_services(repo: Path) -> set[str]:
    """The services that are healthy, and `init` once it has succeeded."""
    containers = _output(repo, "ps", "-a", "-q")
    if not containers:
        return set()
    result = subprocess.run(
        ["docker", "inspect", "--format", _STATE, *containers], capture_output=True, text=True, check=False
    )
    states = [line.split() for line in result.stdout.splitlines()]
    return {
        name
        for name, status, health, code in states
        if (status == "running" and health == "healthy") or (name == "init" and (status, code) == ("exited", "0"))
    }


# Compose 1.29 redraws lines, which would garble what is printed between them.
_PLAIN = ("--ansi", "never")


def _compose(repo: Path, *arguments: str) -> None:
    if subprocess.run([*_command(), *arguments], cwd=repo, env=_environment(), check=False).returncode:
        raise UnavailableError(f"`{' '.join(_command())} {' '.join(arguments)}` failed; its output is above")


def _output(repo: Path, *arguments: str) -> list[str]:
    command = [*_command(), *arguments]
    return subprocess.run(
        command, cwd=repo, env=_environment(), capture_output=True, text=True, check=False
    ).stdout.split()


@cache
def _environment() -> dict[str, str]:
    """This process's environment, with the revision of the code for the images."""
    return {"CODE_VERSION": code_version(), **os.environ}


@cache
def _command() -> tuple[str, ...]:
    if (
        shutil.which("docker")
        and not subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode
    ):
        return ("docker", "compose")
    if shutil.which("docker-compose"):
        return ("docker-compose",)
    raise InvalidInputError("neither `docker compose` nor `docker-compose` is installed; the local stack needs neither")


def main(arguments: list[str]) -> None:
    """The command line."""
    actions = {"up": up, "down": down, "env": ensure_env}
    if len(arguments) != 1 or arguments[0] not in actions:
        sys.exit(f"usage: python -m infra.compose {' | '.join(actions)}")
    try:
        actions[arguments[0]]()
    except EvergreenError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main(sys.argv[1:])
