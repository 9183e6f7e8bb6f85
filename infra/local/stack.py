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
        on_part: called with a part's name and its state (``starting``, ``healthy``, ``failed``), or with another
            task and ``waiting`` or ``done``.
        only: these parts and no others; ``airflow`` means its four. Postgres and the S3 server always start.
        ports: by part; where they differ from those of an earlier start they replace them.

    Raises:
        ConflictError: a port is taken, or the stack runs with other ports.
        InvalidInputError: the folder, a port or a part's name cannot be used.
        UnavailableError: a part did not become healthy; the message ends with its last log lines.
    """
    environ = {**os.environ, **{f"{PREFIX}PORT_{part.upper()}": str(port) for part, port in (ports or {}).items()}}
    report = on_part or _ignore
    with _one_at_a_time(home, report):
        stack_layout, manager = _prepare(home, environ)
        selected_parts = _select(all_parts(stack_layout), only)
        waiter = StartupWaiter(manager, stack_layout.home / "logs", report)
        waiter.begin(part for part in selected_parts if part.name in _STORAGE)
        waiter.wait()
        settings = stack_layout.settings()
        _prepare_storage(stack_layout, settings)
        waiter.begin(part for part in selected_parts if not part.name.startswith("airflow"))
        if airflow_parts := [part for part in selected_parts if part.name.startswith("airflow")]:
            _migrate_airflow(stack_layout, waiter)
            waiter.begin(airflow_parts)
        waiter.wait()
        if airflow_parts:
            airflow.ensure_pool(stack_layout)
    return settings


def down(home: Path, on_part: OnPart | None = None) -> None:
    """Stop everything, dependents first; a no-op if nothing runs.

    Args:
        home: the data folder.
        on_part: called with the names of the parts being stopped, and ``stopping``.
    """
    if not (home / "stack.json").exists():
        return
    report = on_part or _ignore
    with _one_at_a_time(home, report):
        stack_layout = layout.load(home)
        manager = Manager(stack_layout)
        if manager.running():
            names = [part.name for part in all_parts(stack_layout)]
            for group in ([name for name in names if name not in ("mlflow", *_STORAGE)], ["mlflow"], [*_STORAGE]):
                report(", ".join(group), "stopping")
                manager.stop_parts(group)
            manager.shut_down()
        manager.end_orphans()


def _prepare(home: Path, environ: Mapping[str, str]) -> tuple[Layout, Manager]:
    """The layout, and a running supervisord with all parts configured."""
    if (home / "stack.json").exists():
        stack_layout = layout.load(home)
        manager = Manager(stack_layout)
        if manager.running():
            if other := {
                p: n for p, n in layout.chosen_ports(stack_layout.ports, environ).items() if n != stack_layout.ports[p]
            }:
                differing = ", ".join(
                    f"{part} on {stack_layout.ports[part]}, not {port}" for part, port in other.items()
                )
                raise ConflictError(f"the stack in {stack_layout.home} runs with {differing}: `evergreen down` first")
            return stack_layout, manager
        manager.end_orphans()
    stack_layout = layout.prepare(home, environ)
    manager = Manager(stack_layout)
    layout.refuse_taken_ports(stack_layout)
    postgres.initialise(stack_layout.home / "postgres", stack_layout.secrets["postgres"])
    airflow.write_password(stack_layout)
    manager.start(all_parts(stack_layout))
    return stack_layout, manager


def _select(parts: Sequence[Component], only: Sequence[str]) -> list[Component]:
    names = {name for part in parts for name in (part.name, part.name.split("-")[0])}
    if unknown := set(only) - names:
        raise InvalidInputError(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(sorted(names))}")
    selected = {*only, *_STORAGE}
    return [part for part in parts if not only or selected & {part.name, part.name.split("-")[0]}]


def _prepare_storage(stack_layout: Layout, settings: Settings) -> None:
    """Create databases, buckets and the catalog's tables where they are missing."""
    for name in ("evergreen", "airflow", "mlflow"):
        postgres.ensure_database(
            "127.0.0.1",
            stack_layout.ports["postgres"],
            stack_layout.secrets["postgres"],
            name,
            stack_layout.secrets[name],
        )
    for bucket in (settings.labels_bucket, settings.store_bucket, settings.artifacts_bucket):
        object_store.connect(settings, bucket).ensure_bucket()
    migrate(context.connect(settings).engine)


def _migrate_airflow(stack_layout: Layout, waiter: StartupWaiter) -> None:
    """Migrate once per version, since it takes seconds; started parts are watched meanwhile."""
    marker = airflow.home(stack_layout) / f"migrated-{version('apache-airflow')}"
    if marker.exists():
        return
    log = stack_layout.home / "logs" / "airflow-migrate.log"
    command = [airflow.executable(), "db", "migrate"]
    environment = {**os.environ, **airflow.environment(stack_layout)}
    waiter.report("tables for airflow", "starting")
    with log.open("ab") as output:
        child = subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=stack_layout.home)
    waiter.wait(until=lambda: child.poll() is not None)
    if child.wait():
        raise UnavailableError(f"`airflow db migrate` failed; the end of {log}:\n{tail(log)}")
    marker.touch()
    waiter.report("tables for airflow", "done")


@contextmanager
def _one_at_a_time(home: Path, report: OnPart) -> Iterator[None]:
    layout.make_folder(home)
    with (home / "up.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("another `evergreen up` or `down`", "waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
            report("another `evergreen up` or `down`", "done")
        yield


def _ignore(name: str, state: str) -> None:
    del name, state
