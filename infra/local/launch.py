"""Launches a part of the stack: ends what the part's last run left, reads its command and environment
from a private file, then executes it.

supervisord's own way to give an environment cannot carry every value, and command lines can be read
by everyone on the machine.
"""

import contextlib
import json
import os
import shutil
import sys
import time
from pathlib import Path

import psutil

_GRACE = 10


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
    members = [process for process in psutil.process_iter() if _left(process.pid, group)]
    family = {member: None for root in members for member in (root, *_descendants(root))}
    end(list(family), _GRACE)


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


def _left(pid: int, group: int) -> bool:
    try:
        return pid != os.getpid() and os.getpgid(pid) == group and os.getsid(pid) == os.getsid(0)
    except (ProcessLookupError, PermissionError):
        return False


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


if __name__ == "__main__":
    main(Path(sys.argv[1]))
