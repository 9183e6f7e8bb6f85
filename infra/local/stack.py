"""Starts, stops and describes the local stack."""

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from infra.local import airflow, layout, postgres
from infra.local.layout import Layout
from infra.local.manager import Manager
from infra.local.parts import Part, all_parts
from ml import context, objects
from ml.catalog.migrate import migrate
from ml.errors import UnavailableError
from ml.settings import Settings

OnPart = Callable[[str, str], None]

_PATIENCE = 120


@dataclass(frozen=True)
class PartStatus:
    """`state`: healthy, starting, failed or stopped; memory in bytes (PSS where the system tells it)."""

    name: str
    state: str
    address: str
    pid: int | None
    seconds_up: float | None
    memory: int | None


def up(home: Path, on_part: OnPart | None = None) -> Settings:
    """Start what is not running; returns when every part is healthy.

    Args:
        home: the data folder.
        on_part: hears a part's name and its state (``starting``, ``healthy``).

    Raises:
        ConflictError: a port is taken.
        UnavailableError: a part did not become healthy; the message ends with its last log lines.
    """
    tell = on_part or _silent
    with _one_at_a_time(home):
        here = layout.prepare(home, os.environ)
        parts = all_parts(here)
        manager = Manager(here)
        if not manager.running():
            _first_steps(here, manager, parts)
        by_name = {part.name: part for part in parts}
        _start(manager, [by_name["postgres"], by_name["s3"]], tell, here)
        settings = here.settings()
        _make_room(here, settings)
        with ThreadPoolExecutor(1) as pool:
            migrated = pool.submit(_migrate_airflow, here)
            _begin(manager, [by_name["mlflow"], by_name["service"]], tell)
            _start(manager, [p for p in parts if p.name.startswith("airflow")], tell, here, migrated)
        _start(manager, parts, tell, here)
    return settings


def down(home: Path) -> None:
    """Stop everything, in order; nothing to do is no error."""
    if not (home / "stack.json").exists():
        return
    with _one_at_a_time(home):
        here = layout.load(home)
        manager = Manager(here)
        manager.shut_down()
        manager.end_orphans()


def status(home: Path) -> list[PartStatus]:
    """Every part as it is now."""
    here = layout.load(home)
    manager = Manager(here)
    parts = all_parts(here)
    with ThreadPoolExecutor(len(parts)) as pool:
        return list(pool.map(lambda part: _status(manager, part), parts))


def as_json(found: Sequence[PartStatus]) -> list[dict[str, Any]]:
    return [asdict(part) for part in found]


def _first_steps(here: Layout, manager: Manager, parts: list[Part]) -> None:
    manager.end_orphans()
    layout.refuse_taken_ports(here)
    postgres.initialise(here.home / "postgres", here.secrets["postgres"])
    airflow.write_password(here)
    shutil.rmtree(here.home / "metrics", ignore_errors=True)
    (here.home / "metrics").mkdir()
    manager.start(parts)


def _make_room(here: Layout, settings: Settings) -> None:
    """Databases, buckets and our tables; all of it harmless when it is there."""
    for name in ("evergreen", "airflow", "mlflow"):
        postgres.ensure_database(
            "127.0.0.1", here.ports["postgres"], here.secrets["postgres"], name, here.secrets[name]
        )
    for bucket in (settings.labels_bucket, settings.store_bucket, settings.artifacts_bucket):
        objects.connect(settings, bucket).ensure_bucket()
    migrate(context.connect(settings).engine)


def _migrate_airflow(here: Layout) -> None:
    """Once a version; each of the two commands costs seconds."""
    done = airflow.home(here) / f"migrated-{version('apache-airflow')}"
    if done.exists():
        return
    environment = {**os.environ, **airflow.environment(here)}
    log = here.home / "logs" / "airflow-migrate.log"
    with log.open("ab") as output:
        for arguments in (["db", "migrate"], ["pools", "set", airflow.POOL, "1", "one training at a time"]):
            found = subprocess.run(
                [airflow.executable(), *arguments],
                env=environment,
                stdout=output,
                stderr=output,
                cwd=here.home,
                check=False,
            )
            if found.returncode:
                raise UnavailableError(f"`airflow {' '.join(arguments)}` failed:\n{_tail(log)}")
    done.touch()


def _begin(manager: Manager, parts: Sequence[Part], tell: OnPart) -> None:
    for part in parts:
        if manager.info(part.name)["statename"] != "RUNNING":
            tell(part.name, "starting")
        manager.start_part(part.name)


def _start(
    manager: Manager, parts: Sequence[Part], tell: OnPart, here: Layout, after: "Future[None] | None" = None
) -> None:
    """Start the parts (after a future is done) and wait until all are healthy."""
    if after is not None:
        after.result()
    _begin(manager, parts, tell)
    waiting = list(parts)
    deadline = time.monotonic() + _PATIENCE
    while waiting:
        for part in list(waiting):
            if part.healthy():
                waiting.remove(part)
                tell(part.name, "healthy")
            elif manager.info(part.name)["statename"] == "FATAL" or time.monotonic() > deadline:
                log = here.home / "logs" / f"{part.name}.log"
                raise UnavailableError(f"{part.name} does not become healthy; the end of {log}:\n{_tail(log)}")
        if waiting:
            time.sleep(0.25)


def _status(manager: Manager, part: Part) -> PartStatus:
    try:
        told = manager.info(part.name)
    except UnavailableError:
        return PartStatus(part.name, "stopped", part.address, None, None, None)
    pid = told["pid"] or None
    if told["statename"] in ("RUNNING", "STARTING"):
        state = "healthy" if part.healthy() else "starting"
    else:
        state = "stopped" if told["statename"] in ("STOPPED", "STOPPING") else "failed"
    seconds = float(told["now"] - told["start"]) if pid else None
    return PartStatus(part.name, state, part.address, pid, seconds, _memory(pid) if pid else None)


def _memory(pid: int) -> int | None:
    """Proportional set size of the process and its descendants."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return None
    total = 0
    for member in family:
        try:
            told = member.memory_full_info()
            total += getattr(told, "pss", told.rss)
        except psutil.Error:
            continue
    return total


@contextmanager
def _one_at_a_time(home: Path) -> Iterator[None]:
    home.mkdir(parents=True, exist_ok=True)
    with (home / "up.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _tail(log: Path, lines: int = 15) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError as error:
        return f"(its log cannot be read: {error})"


def _silent(name: str, state: str) -> None:
    del name, state
