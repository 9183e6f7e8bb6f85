"""supervisord: its configuration, its start, and what it says of the parts.

https://supervisord.org: restarts what dies, rotates logs, is asked over a Unix socket.
"""

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import psutil
from supervisor.xmlrpc import SupervisorTransport

from infra.local.layout import Layout, write_private
from infra.local.parts import HOME_VARIABLE, Part
from ml.errors import UnavailableError

_SOCKET_PATH_MOST = 90  # the kernel takes 107 bytes; supervisord adds a suffix of its own


class Manager:
    """The supervisord of one stack."""

    def __init__(self, layout: Layout) -> None:
        self._home = layout.home
        self._configuration = layout.home / "supervisord.conf"
        self._socket = _socket_path(layout.home)

    def running(self) -> bool:
        try:
            self._call("getState")
        except UnavailableError:
            return False
        return True

    def start(self, parts: Iterable[Part]) -> None:
        """Write the configuration anew and start the daemon, with no part running yet."""
        self._write(parts)
        self._socket.unlink(missing_ok=True)
        begun = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(self._configuration)],
            check=False,
            cwd=self._home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if begun.returncode:
            raise UnavailableError(f"supervisord does not start: {begun.stdout}{begun.stderr}")
        deadline = time.monotonic() + 10
        while not self.running():
            if time.monotonic() > deadline:
                raise UnavailableError(f"supervisord did not start; see {self._home / 'logs' / 'supervisord.log'}")
            time.sleep(0.05)

    def start_part(self, name: str) -> None:
        """Begin to start a part; a running one stays."""
        if self.info(name)["statename"] not in ("RUNNING", "STARTING", "BACKOFF"):
            wait = False
            self._call("startProcess", name, wait)

    def info(self, name: str) -> dict[str, Any]:
        """supervisord's own words on a part: statename, pid, start, now, spawnerr."""
        found: dict[str, Any] = self._call("getProcessInfo", name)
        return found

    def shut_down(self) -> None:
        """Stop the parts, the last started first, and the daemon; waits until all are gone."""
        try:
            pid = self._call("getPID")
            self._call("shutdown")
        except UnavailableError:
            return
        gone, alive = psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=60)
        del gone
        if alive:
            raise UnavailableError(
                f"supervisord (pid {pid}) did not stop within 60 s; see its log in {self._home}/logs"
            )

    def end_orphans(self) -> None:
        """End what a killed supervisord left running: processes that carry this stack's mark."""
        orphans = [p for p in psutil.process_iter() if _mark(p) == str(self._home)]
        for process in orphans:
            _signal(process, signal.SIGINT if "postgres" in process.name() else signal.SIGTERM)
        _, alive = psutil.wait_procs(orphans, timeout=15)
        for process in alive:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(alive, timeout=5)

    def _call(self, method: str, *arguments: Any) -> Any:
        proxy = xmlrpc.client.ServerProxy(
            "http://localhost", transport=SupervisorTransport(None, None, f"unix://{self._socket}")
        )
        try:
            return getattr(proxy.supervisor, method)(*arguments)
        except OSError as error:
            raise UnavailableError(f"the stack in {self._home} is not running: {error}") from error
        except xmlrpc.client.Fault as error:
            raise UnavailableError(f"supervisord refuses {method}{arguments}: {error.faultString}") from error

    def _write(self, parts: Iterable[Part]) -> None:
        logs = self._home / "logs"
        head = {
            "unix_http_server": {"file": self._socket, "chmod": "0700"},
            "supervisord": {
                "logfile": logs / "supervisord.log",
                "pidfile": self._home / "supervisord.pid",
                "childlogdir": logs,
                "minfds": 1024,
                **({"user": "root"} if os.geteuid() == 0 else {}),
            },
            "rpcinterface:supervisor": {
                "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
            },
            "supervisorctl": {"serverurl": f"unix://{self._socket}"},
        }
        sections = head | {f"program:{part.name}": self._program(part, logs) for part in parts}
        text = "\n".join(
            f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in section.items())
            for name, section in sections.items()
        )
        write_private(self._configuration, text.encode())

    def _program(self, part: Part, logs: Path) -> dict[str, Any]:
        environment = {**part.environment, HOME_VARIABLE: str(self._home)}
        launch = self._home / "launch" / f"{part.name}.json"
        launch.parent.mkdir(exist_ok=True)
        write_private(launch, orjson.dumps({"command": part.command, "environment": environment}))
        words = (sys.executable, str(Path(__file__).with_name("launch.py")), str(launch))
        return {
            "command": " ".join(_quoted(word) for word in words),
            "directory": self._home,
            "autostart": "false",
            "autorestart": "true",
            "startsecs": 1,
            "startretries": 20,
            "stopsignal": part.stop_signal.name.removeprefix("SIG"),
            "stopwaitsecs": 20,
            "stopasgroup": "false" if part.stop_signal is signal.SIGINT else "true",
            "killasgroup": "true",
            "priority": part.priority,
            "stdout_logfile": logs / f"{part.name}.log",
            "stdout_logfile_maxbytes": "10MB",
            "stdout_logfile_backups": 2,
            "redirect_stderr": "true",
        }


def _mark(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(HOME_VARIABLE)
    except psutil.Error:
        return None


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _quoted(text: str) -> str:
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _socket_path(home: Path) -> Path:
    """In the data folder, or, where that path is too long for a socket, in a private temporary folder."""
    path = home / "supervisor.sock"
    if len(str(path)) <= _SOCKET_PATH_MOST:
        return path
    digest = hashlib.sha256(str(home).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"evergreen-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise UnavailableError(f"{folder} belongs to somebody else; choose a shorter EVERGREEN_HOME")
    return folder / f"{digest}.sock"
