"""The local stack as a user handles it: really started, its parts killed, stopped. The tests build on each other.

Three parts of it, which is all that its own work needs; the end-to-end test has the rest.
"""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import psutil
import pytest

from infra.local import layout, stack, status
from infra.local.status import ComponentStatus
from ml.errors import ConflictError
from ml.settings import Settings
from ml.storage import object_store
from tests.servers import stack_ports, wait_until

PARTS = ("postgres", "s3", "service")


class Stack:
    """In this process where that will do, else `evergreen` as from a shell."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.environment = {**os.environ, **stack_ports(), "EVERGREEN_HOME": str(self.home)}
        self.ports = {part: int(self.environment[f"EVERGREEN_PORT_{part.upper()}"]) for part in layout.PORTS}

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "infra.cli", *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def evergreen(self, *arguments: str) -> tuple[int, str, str]:
        child = self.begin(*arguments)
        output, errors = child.communicate(timeout=1200)
        return child.returncode, output, errors

    def up(self, **ports: int) -> None:
        stack.up(self.home, only=["service"], ports=self.ports | ports)

    def status(self) -> dict[str, ComponentStatus]:
        return {part.name: part for part in status.read(self.home)}

    def pids(self) -> dict[str, int | None]:
        statuses = self.status()
        return {name: statuses[name].pid for name in PARTS}

    def settings(self) -> Settings:
        return Settings.load(self.environment)

    def session(self) -> int:
        return int((self.home / "supervisord.pid").read_text())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    ours = Stack(tmp_path_factory.mktemp("stack"))
    try:
        ours.up()
        yield ours
    finally:
        stack.down(ours.home)


def test_status_tells_each_part_and_up_again_changes_nothing(running: Stack) -> None:
    code, output, _ = running.evergreen("status", "--json")
    before = {part["name"]: part for part in json.loads(output)}
    assert code == 3  # not everything is up
    assert {name for name, part in before.items() if part["state"] == "healthy"} == set(PARTS)
    assert before["mlflow"]["state"] == "stopped"
    assert before["service"]["address"] == running.settings().service_url
    assert all(before[name]["memory"] > 0 and before[name]["seconds_up"] >= 0 for name in PARTS)
    running.up()
    assert running.pids() == {name: before[name]["pid"] for name in PARTS}


def test_nobody_else_reads_a_secret(running: Stack) -> None:
    for path in ("secrets.json", "evergreen.env", "supervisord.conf", "launch/s3.json", "launch/service.json"):
        assert stat.S_IMODE((running.home / path).stat().st_mode) == 0o600
    secrets = layout.load(running.home).secrets.values()
    lines = [" ".join(process.cmdline()) for process in _of_session(running.session())]
    assert lines
    assert not [line for line in lines if any(secret in line for secret in secrets)]


def test_killed_parts_come_back_and_leave_nothing_behind(running: Stack) -> None:
    before = running.pids()
    families = {name: [psutil.Process(before[name]), *psutil.Process(before[name]).children(True)] for name in PARTS}
    for name in ("service", "s3"):
        os.kill(families[name][0].pid, signal.SIGKILL)
    wait_until(_well_again(running, before, "service", "s3"), what="the service and the S3 server coming back")
    assert running.pids()["postgres"] == before["postgres"]
    os.kill(families["postgres"][0].pid, signal.SIGKILL)
    wait_until(_well_again(running, before, *PARTS), what="Postgres coming back")
    assert not [process for family in families.values() for process in family if _alive(process)]


def test_another_port_while_it_runs_is_refused(running: Stack) -> None:
    with pytest.raises(ConflictError, match=r"not 1024: `evergreen down` first"):
        running.up(s3=1024)


def test_a_killed_manager_leaves_nothing_behind_and_two_at_once_start_one(running: Stack) -> None:
    session = running.session()
    os.kill(session, signal.SIGKILL)
    both = [running.begin("up", "--only", "service") for _ in range(2)]
    for child in both:
        output, errors = child.communicate(timeout=1200)
        assert child.returncode == 0, output + errors
    assert running.session() != session
    wait_until(lambda: not _of_session(session), what="the old processes being gone")
    assert httpx.get(f"{running.settings().service_url}/healthz").status_code == 200


def test_down_ends_everything_and_up_finds_the_data(running: Stack) -> None:
    settings = running.settings()
    object_store.connect(settings, settings.labels_bucket).put("kept/a.txt", b"still here")
    session = running.session()
    code, output, errors = running.evergreen("down")
    assert code == 0, output + errors
    assert not _of_session(session)
    stack.down(running.home)  # again: nothing to do
    assert {part.state for part in running.status().values()} == {"stopped"}
    running.up()
    assert running.settings() == settings
    assert object_store.connect(settings, settings.labels_bucket).get("kept/a.txt") == b"still here"


def _well_again(running: Stack, before: Mapping[str, int | None], *names: str) -> Callable[[], bool]:
    def check() -> bool:
        statuses = running.status()
        return all(statuses[name].state == "healthy" and statuses[name].pid != before[name] for name in names)

    return check


def _of_session(session: int) -> list[psutil.Process]:
    """Those alive in it; Postgres's own children have sessions of their own and end with it."""
    return [process for process in psutil.process_iter() if _session(process) == session and _alive(process)]


def _session(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return None


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
