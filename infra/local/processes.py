"""The stack's processes: launches a part, and ends what killed runs left.

`python -m infra.local.processes FILE` ends what the part's last run left, reads the part's command and environment
from a private file, then executes it. supervisord's own way to give an environment cannot carry every value, and
command lines can be read by everyone on the machine.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import psutil

HOME_VARIABLE = "STACK_OF_EVERGREEN"
"""In the environment of every process of a stack: its data folder."""

_RUN_GRACE, _DAEMON_GRACE, _ORPHAN_GRACE = 10, 60, 15
_STORES = ("postgres", "rclone", "minio")


def main(path: Path) -> None:
    """`path` holds {"command": […], "environment": {…}, "fresh": [folder to be emptied, …]}; does not return."""
    spec = json.loads(path.read_bytes())
    group = path.with_suffix(".pid")
    end_last_run(group)
    group.write_text(str(os.getpgrp()))
    for folder in map(Path, spec["fresh"]):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    os.execvpe(spec["command"][0], spec["command"], {**os.environ, **spec["environment"]})  # noqa: S606 - no shell is wanted


def end_last_run(group_file: Path) -> None:
    """End the children of a run whose main process was killed; some would hold its port or wait for ever.

    They are in the process group that was noted, or descend from it. While it has members the kernel gives
    its number to nobody else, and a group of this same session is supervisord's own.
    """
    try:
        group = int(group_file.read_text())
    except (FileNotFoundError, ValueError):
        return
    members = [process for process in psutil.process_iter() if _is_left(process.pid, group)]
    family = {member: None for root in members for member in (root, *_descendants(root))}
    end(list(family), _RUN_GRACE)


def end_orphans(home: Path, pid_file: Path) -> None:
    """End every process of the stack in `home`; none left is no error.

    supervisord opens a session of its own and all its parts stay in it, whatever they do to their names
    and environments. So they are found by the session, and, for a session whose number is unknown, by
    the variable each part was given.
    """
    session = _session(pid_file)
    orphans = [process for process in psutil.process_iter() if _is_ours(process, home, session)]
    # A daemon that still runs would restart the parts; when terminated, it ends its parts itself.
    end([process for process in orphans if process.pid == session], _DAEMON_GRACE)
    # The stores last: the others connect to them while they shut down, and would retry for long.
    stores = [process for process in orphans if _name(process) in _STORES]
    end([process for process in orphans if process not in stores], _ORPHAN_GRACE)
    for process in stores:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGINT)  # Postgres waits for its clients on SIGTERM
    end(stores, _ORPHAN_GRACE)


def end(processes: list[psutil.Process], grace: float) -> None:
    """Terminate, wait, then kill."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in gone_within(grace, processes):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    gone_within(5, processes)


def gone_within(seconds: float, processes: list[psutil.Process]) -> list[psutil.Process]:
    """Wait for the processes to end; returns those that did not."""
    deadline = time.monotonic() + seconds
    while (alive := [process for process in processes if _alive(process)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return alive


def _alive(process: psutil.Process) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_left(pid: int, group: int) -> bool:
    try:
        return pid != os.getpid() and os.getpgid(pid) == group and os.getsid(pid) == os.getsid(0)
    except (ProcessLookupError, PermissionError):
        return False


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _session(pid_file: Path) -> int | None:
    try:
        session = int(pid_file.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return None if session == os.getsid(0) else session


def _is_ours(process: psutil.Process, home: Path, session: int | None) -> bool:
    with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
        # After a reboot the number may be another's session: that one does not work below our folder.
        if session is not None and os.getsid(process.pid) == session and Path(process.cwd()).is_relative_to(home):
            return True
        return process.environ().get(HOME_VARIABLE) == str(home)
    return False


def _name(process: psutil.Process) -> str | None:
    try:
        return process.name()
    except psutil.Error:
        return None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
