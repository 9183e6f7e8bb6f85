"""Where the local stack keeps things and how its parts find each other: folders, ports, secrets, settings."""

import contextlib
import os
import secrets
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson
from cryptography.fernet import Fernet

from ml.errors import ConflictError, InvalidInputError
from ml.settings import ENV_FILE, PREFIX, Settings

PORTS = {"postgres": 55432, "s3": 59000, "mlflow": 55000, "airflow": 58080, "service": 58000}
REPO = Path(__file__).resolve().parents[2]
_DISK_LEAST = 500_000_000


@dataclass(frozen=True)
class Layout:
    """One stack: its data folder, ports and secrets. Made at the first `up`, the same ever after."""

    home: Path
    ports: Mapping[str, int]
    secrets: Mapping[str, str]

    def address(self, part: str) -> str:
        return f"127.0.0.1:{self.ports[part]}"

    def database(self, name: str) -> str:
        return f"postgresql+psycopg2://{name}:{self.secrets[name]}@{self.address('postgres')}/{name}"

    def settings(self) -> Settings:
        """What `ml` needs to know of this stack, with the environment's own variables on top."""
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
            "EXPECTATIONS": str(REPO / "expectations"),
        }
        return {PREFIX + name: value for name, value in values.items()}


def prepare(home: Path, environ: Mapping[str, str]) -> Layout:
    """The stack's layout, made at the first call; secrets only the owner can read.

    Raises:
        InvalidInputError: the folder cannot be written, the disk is full, or a port is no port.
    """
    home = home.resolve()
    try:
        (home / "logs").mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(home).free
    except OSError as error:
        raise InvalidInputError(
            f"the data folder {home} cannot be made or written: {error}; set EVERGREEN_HOME"
        ) from error
    if free < _DISK_LEAST:
        raise InvalidInputError(
            f"only {free / 1e6:.0f} MB are free below {home}, at least {_DISK_LEAST / 1e6:.0f} MB are needed: "
            "free some space, or set EVERGREEN_HOME to another disk"
        )
    layout = Layout(home, _ports(home, environ), _secrets(home))
    write_private(home / ENV_FILE, "".join(f"{k}='{v}'\n" for k, v in layout.environment().items()).encode())
    return layout


def load(home: Path) -> Layout:
    """The layout of a stack that was started before.

    Raises:
        InvalidInputError: there is none.
    """
    home = home.resolve()
    if not (home / "stack.json").exists():
        raise InvalidInputError(f"there is no stack in {home}: start one with `evergreen up`, or set EVERGREEN_HOME")
    return Layout(home, _ports(home, {}), _secrets(home))


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


def _ports(home: Path, environ: Mapping[str, str]) -> dict[str, int]:
    path = home / "stack.json"
    ports = dict(PORTS)
    with contextlib.suppress(FileNotFoundError):
        ports |= orjson.loads(path.read_bytes())["ports"]
    for part in PORTS:
        told = environ.get(f"{PREFIX}PORT_{part.upper()}")
        if told:
            if not told.isdecimal() or not 0 < int(told) < 65536:
                raise InvalidInputError(f"`{PREFIX}PORT_{part.upper()}` must be 1 to 65535; received {told!r}")
            ports[part] = int(told)
    write_private(path, orjson.dumps({"ports": ports}, option=orjson.OPT_INDENT_2))
    return ports


def _secrets(home: Path) -> dict[str, str]:
    path = home / "secrets.json"
    with contextlib.suppress(FileNotFoundError):
        known: dict[str, str] = orjson.loads(path.read_bytes())
        return known
    names = ("postgres", "evergreen", "airflow", "mlflow", "s3", "airflow_admin", "airflow_api")
    made = {name: secrets.token_urlsafe(24) for name in names}
    made["airflow_jwt"] = secrets.token_urlsafe(72)
    made["airflow_fernet"] = Fernet.generate_key().decode()
    write_private(path, orjson.dumps(made, option=orjson.OPT_INDENT_2))
    return made


def write_private(path: Path, data: bytes) -> None:
    """Write whole or not at all, readable by the owner only."""
    temporary = path.with_suffix(".part")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    temporary.rename(path)
