"""The local stack's folders, ports, secrets and settings."""

import os
import secrets
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ml.errors import ConflictError, IntegrityError, InvalidInputError
from ml.settings import ENV_FILE, PREFIX, Settings

# Below the range that systems take source ports of outgoing connections from (32768 on in Linux).
PORTS = {"postgres": 15432, "s3": 19000, "mlflow": 15000, "airflow": 18080, "service": 18000}
_SPECIAL = frozenset("%;'\"\\\n")  # mean something in supervisord's configuration or in the settings file
_PORTS_FILE, _SECRETS_FILE = "stack.json", "secrets.json"
REPO = Path(__file__).resolve().parents[2]
_DISK_LEAST, _DISK_LITTLE = 200_000_000, 1_000_000_000


@dataclass(frozen=True)
class Layout:
    """One stack: its data folder, ports and secrets. Created by the first `up`, then unchanged."""

    home: Path
    ports: Mapping[str, int]
    secrets: Mapping[str, str]

    def address(self, part: str) -> str:
        return f"127.0.0.1:{self.ports[part]}"

    def database(self, name: str) -> str:
        return f"postgresql+psycopg2://{name}:{self.secrets[name]}@{self.address('postgres')}/{name}"

    def settings(self) -> Settings:
        """The settings for `ml`; environment variables override them."""
        return Settings.load({**self.environment(), **os.environ, f"{PREFIX}HOME": str(self.home)})

    def environment(self) -> dict[str, str]:
        """The content of the settings file."""
        values = {
            "HOME": str(self.home),
            "DATABASE_URL": self.database("evergreen"),
            "S3_ENDPOINT": f"http://{self.address('s3')}",
            "S3_ACCESS_KEY": "evergreen",
            "S3_SECRET_KEY": self.secrets["s3"],
            "MLFLOW_URL": f"http://{self.address('mlflow')}",
            "AIRFLOW_URL": f"http://{self.address('airflow')}",
            "SERVICE_URL": f"http://{self.address('service')}",
            "SERVICE_PORT": str(self.ports["service"]),
            "API_KEYS": "loopback",
            "EXPECTATIONS": str(REPO / "expectations"),
        }
        return {PREFIX + name: value for name, value in values.items()}


def prepare(home: Path, environ: Mapping[str, str]) -> Layout:
    """The stack's layout, made at the first call; secrets only the owner can read.

    Raises:
        InvalidInputError: the folder cannot be written, the disk is full, or a port is no port.
    """
    home = home.resolve()
    if special := sorted(_SPECIAL & set(str(home))):
        raise InvalidInputError(f"the data folder's path must not have {' '.join(special)} in it: {home}")
    make_folder(home / "logs")
    free = shutil.disk_usage(home).free
    if free < _DISK_LEAST:
        raise InvalidInputError(
            f"only {free / 1e6:.0f} MB are free below {home}, at least {_DISK_LEAST / 1e6:.0f} MB are needed: "
            "free some space, or set EVERGREEN_HOME to another disk"
        )
    try:
        ports = chosen_ports(_stored(home / _PORTS_FILE) or PORTS, environ)
        write_private(home / _PORTS_FILE, orjson.dumps({"ports": ports}, option=orjson.OPT_INDENT_2))
        layout = Layout(home, ports, _stored(home / _SECRETS_FILE) or _make_secrets(home))
        write_private(home / ENV_FILE, "".join(f"{k}='{v}'\n" for k, v in layout.environment().items()).encode())
    except OSError as error:
        raise _unusable(home, error) from error
    return layout


def make_folder(folder: Path) -> None:
    """Raises InvalidInputError where it cannot be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"no permission to write in {folder}")
    except OSError as error:
        raise _unusable(folder, error) from error


def low_disk_warning(home: Path) -> str | None:
    """A warning when the disk will soon be full."""
    free = shutil.disk_usage(home).free
    return f"only {free / 1e6:.0f} MB are left on the disk of {home}" if free < _DISK_LITTLE else None


def load(home: Path) -> Layout:
    """The layout of a stack that was started before.

    Raises:
        InvalidInputError: there is none.
    """
    home = home.resolve()
    ports, secrets_ = _stored(home / _PORTS_FILE), _stored(home / _SECRETS_FILE)
    if ports is None or secrets_ is None:
        raise InvalidInputError(f"there is no stack in {home}: start one with `evergreen up`, or set EVERGREEN_HOME")
    return Layout(home, ports, secrets_)


def refuse_taken_ports(layout: Layout) -> None:
    """Raises ConflictError that names every port somebody else listens on."""
    taken = []
    for part, port in layout.ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                taken.append(f"{port} ({part})")
    if taken:
        raise ConflictError(
            f"taken by another program: port {', '.join(taken)}; end it, or choose others: "
            + " ".join(f"{PREFIX}PORT_{t.split('(')[1][:-1].upper()}=…" for t in taken)
        )


def chosen_ports(ports: Mapping[str, int], environ: Mapping[str, str]) -> dict[str, int]:
    """The ports, with those that the environment names in their place.

    Raises:
        InvalidInputError: a port is no port, or two parts were given the same one.
    """
    chosen = {part: ports.get(part, default) for part, default in PORTS.items()}
    for part in PORTS:
        variable = f"{PREFIX}PORT_{part.upper()}"
        if value := environ.get(variable):
            if not value.isdecimal() or not 0 < int(value) < 65536:
                raise InvalidInputError(f"`{variable}` must be 1 to 65535; received {value!r}")
            chosen[part] = int(value)
    by_port: dict[int, list[str]] = {}
    for part, port in chosen.items():
        by_port.setdefault(port, []).append(part)
    if twice := [f"{port} ({' and '.join(parts)})" for port, parts in by_port.items() if len(parts) > 1]:
        raise InvalidInputError(f"each part needs a port of its own; given twice: {', '.join(twice)}")
    return chosen


def _stored(path: Path) -> Any:
    """The content of a JSON file; None if it does not exist.

    Raises:
        IntegrityError: it cannot be understood.
    """
    try:
        content = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (orjson.JSONDecodeError, OSError) as error:
        raise IntegrityError(f"{path} cannot be read ({error}): put it back from a backup") from error
    return content["ports"] if path.name == _PORTS_FILE else content


def _make_secrets(home: Path) -> dict[str, str]:
    if (home / "postgres").exists():
        raise IntegrityError(
            f"{home / _SECRETS_FILE} is missing, and the databases beside it know only its passwords: "
            "put it back from a backup, or move the whole folder away to begin anew"
        )
    from cryptography.fernet import Fernet  # slow to import, and needed once

    names = ("postgres", "evergreen", "airflow", "mlflow", "s3", "airflow_admin", "airflow_api")
    values = {name: secrets.token_urlsafe(24) for name in names}
    values["airflow_jwt"] = secrets.token_urlsafe(72)
    values["airflow_fernet"] = Fernet.generate_key().decode()
    write_private(home / _SECRETS_FILE, orjson.dumps(values, option=orjson.OPT_INDENT_2))
    return values


def _unusable(folder: Path, error: OSError) -> InvalidInputError:
    return InvalidInputError(f"the data folder {folder} cannot be made or written: {error}; set EVERGREEN_HOME")


def write_private(path: Path, data: bytes) -> None:
    """Write atomically, readable by the owner only."""
    temporary = path.with_suffix(".part")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    temporary.rename(path)
