"""Starts and stops the local stack."""

import fcntl
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from infra.local import airflow, layout, postgres
from infra.local.components import Component, all_parts
from infra.local.layout import Layout
from infra.local.manager import Manager
from infra.local.startup import OnPart, StartupWaiter, tail
from ml import context
from ml.catalog.migrate import migrate
from ml.errors import ConflictError, InvalidInputError, UnavailableError
from ml.settings import PREFIX, Settings
from ml.storage import object_store

Ports = Mapping[str, int]

_STORAGE = ("postgres", "s3")


def up(home: Path, on_part: OnPart | None = None, *, only: Sequence[str] = (), ports: Ports | None = None) -> Settings:
    """Start what is not running; returns when every part is healthy.

    Args:
        home: the data folder.
        on_part: hears a part's name and its state (``starting``, ``healthy``, ``failed``), or of other work that
            it is ``waiting`` for or that is ``done``.
        only: these parts and no others; ``airflow`` means its four. Postgres and the S3 server always start.
        ports: by part; where they differ from those of an earlier start they replace them.

    Raises:
        ConflictError: a port is taken, or the stack runs with other ports.
        InvalidInputError: the folder, a port or a part's name cannot be used.
        UnavailableError: a part did not become healthy; the message ends with its last log lines.
    """
    environ = {**os.environ, **{f"{PREFIX}PORT_{part.upper()}": str(port) for part, port in (ports or {}).items()}}
    tell = on_part or _silent
    with _one_at_a_time(home, tell):
        here, manager = _prepared(home, environ)
        wanted = _chosen(all_parts(here), only)
        coming = StartupWaiter(manager, here.home / "logs", tell)
        coming.begin(part for part in wanted if part.name in _STORAGE)
        coming.wait()
        settings = here.settings()
        _make_room(here, settings)
        coming.begin(part for part in wanted if not part.name.startswith("airflow"))
        if later := [part for part in wanted if part.name.startswith("airflow")]:
            _migrate_airflow(here, coming)
            coming.begin(later)
        coming.wait()
        if later:
            airflow.ensure_pool(here)
    return settings


def down(home: Path, on_part: OnPart | None = None) -> None:
    """Stop everything, what depends on others first; nothing to do is no error.

    Args:
        home: the data folder.
        on_part: hears the names of the parts being stopped, and ``stopping``.
    """
    if not (home / "stack.json").exists():
        return
    tell = on_part or _silent
    with _one_at_a_time(home, tell):
        here = layout.load(home)
        manager = Manager(here)
        if manager.running():
            names = [part.name for part in all_parts(here)]
            for wave in ([name for name in names if name not in ("mlflow", *_STORAGE)], ["mlflow"], [*_STORAGE]):
                tell(", ".join(wave), "stopping")
                manager.stop_parts(wave)
            manager.shut_down()
        manager.end_orphans()


def _prepared(home: Path, environ: Mapping[str, str]) -> tuple[Layout, Manager]:
    """The layout, and a supervisord that knows all parts."""
    if (home / "stack.json").exists():
        here = layout.load(home)
        manager = Manager(here)
        if manager.running():
            if other := {p: n for p, n in layout.chosen_ports(here.ports, environ).items() if n != here.ports[p]}:
                told = ", ".join(f"{part} on {here.ports[part]}, not {port}" for part, port in other.items())
                raise ConflictError(f"the stack in {here.home} runs with {told}: `evergreen down` first")
            return here, manager
        manager.end_orphans()
    here = layout.prepare(home, environ)
    manager = Manager(here)
    layout.refuse_taken_ports(here)
    postgres.initialise(here.home / "postgres", here.secrets["postgres"])
    airflow.write_password(here)
    manager.start(all_parts(here))
    return here, manager


def _chosen(parts: Sequence[Component], only: Sequence[str]) -> list[Component]:
    names = {name for part in parts for name in (part.name, part.name.split("-")[0])}
    if unknown := set(only) - names:
        raise InvalidInputError(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(sorted(names))}")
    asked = {*only, *_STORAGE}
    return [part for part in parts if not only or asked & {part.name, part.name.split("-")[0]}]


def _make_room(here: Layout, settings: Settings) -> None:
    """Databases, buckets and our tables; all of it harmless when it is there."""
    for name in ("evergreen", "airflow", "mlflow"):
        postgres.ensure_database(
            "127.0.0.1", here.ports["postgres"], here.secrets["postgres"], name, here.secrets[name]
        )
    for bucket in (settings.labels_bucket, settings.store_bucket, settings.artifacts_bucket):
        object_store.connect(settings, bucket).ensure_bucket()
    migrate(context.connect(settings).engine)


def _migrate_airflow(here: Layout, coming: StartupWaiter) -> None:
    """Once a version, since it costs seconds; what has begun goes on coming up meanwhile."""
    done = airflow.home(here) / f"migrated-{version('apache-airflow')}"
    if done.exists():
        return
    log = here.home / "logs" / "airflow-migrate.log"
    command = [airflow.executable(), "db", "migrate"]
    environment = {**os.environ, **airflow.environment(here)}
    coming.tell("tables for airflow", "starting")
    with log.open("ab") as output:
        child = subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=here.home)
    coming.wait(until=lambda: child.poll() is not None)
    if child.wait():
        raise UnavailableError(f"`airflow db migrate` failed; the end of {log}:\n{tail(log)}")
    done.touch()
    coming.tell("tables for airflow", "done")


@contextmanager
def _one_at_a_time(home: Path, tell: OnPart) -> Iterator[None]:
    layout.make_folder(home)
    with (home / "up.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("another `evergreen up` or `down`", "waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
            tell("another `evergreen up` or `down`", "done")
        yield


def _silent(name: str, state: str) -> None:
    del name, state
