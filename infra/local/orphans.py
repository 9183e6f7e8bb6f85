"""Ends processes that a killed or unreachable supervisord left running."""

import contextlib
import os
import signal
from pathlib import Path

import psutil

from infra.local.components import HOME_VARIABLE
from infra.local.launch import end

_DAEMON_GRACE, _GRACE = 60, 15
_STORES = ("postgres", "rclone", "minio")


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
    end([process for process in orphans if process not in stores], _GRACE)
    for process in stores:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGINT)  # Postgres waits for its clients on SIGTERM
    end(stores, _GRACE)


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
