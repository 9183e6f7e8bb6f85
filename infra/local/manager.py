"""supervisord: its configuration, its start, and its information on the parts.

https://supervisord.org: restarts processes that exit, rotates logs, is queried over a Unix socket.
"""

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson
import psutil
from supervisor.xmlrpc import Faults, SupervisorTransport

from infra.local import processes
from infra.local.components import Component
from infra.local.layout import Layout, write_private
from ml.errors import UnavailableError

_PATIENCE = 180.0  # seconds for supervisord itself to start or to end, which takes seconds where nothing else runs
_SOCKET_PATH_MOST = 90  # the kernel takes 107 bytes; supervisord adds a suffix of its own
_ALIVE = ("RUNNING", "STARTING", "BACKOFF")


class Manager:
    """The supervisord of one stack."""

    def __init__(self, layout: Layout) -> None:
        self._home = layout.home
        self._configuration = layout.home / "supervisord.conf"
        self._pid_file = layout.home / "supervisord.pid"
        self._socket = _socket_path(layout.home)

    def running(self) -> bool:
        try:
            self._call("getState")
        except UnavailableError:
            return False
        return True

    def start(self, parts: Iterable[Component]) -> None:
        """Write the configuration anew and start the daemon, with no part running yet."""
        self._write(parts)
        self._socket.unlink(missing_ok=True)
        result = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(self._configuration)],
            check=False,
            cwd=self._home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if result.returncode:
            raise UnavailableError(f"supervisord does not start: {result.stdout}{result.stderr}")
        deadline = time.monotonic() + _PATIENCE
        while not self.running():
            if time.monotonic() > deadline:
                raise UnavailableError(f"supervisord did not start; see {self._home / 'logs' / 'supervisord.log'}")
            time.sleep(0.05)

    def start_part(self, name: str) -> None:
        """Begin to start a part; a running one stays."""
        if self.info(name)["statename"] not in _ALIVE:
            wait = False
            self._call("startProcess", name, wait)

    def stop_parts(self, names: Sequence[str], seconds: float = 30) -> None:
        """Stop these together, and wait until they are."""
        for name in names:
            if self.info(name)["statename"] in _ALIVE:
                wait = False
                self._call("stopProcess", name, wait)
        deadline = time.monotonic() + seconds
        while any(self.info(name)["statename"] in (*_ALIVE, "STOPPING") for name in names):
            if time.monotonic() > deadline:
                return  # supervisord insists when it shuts down
            time.sleep(0.1)

    def info(self, name: str) -> dict[str, Any]:
        """supervisord's process info on a part: statename, pid, start, now, spawnerr."""
        info: dict[str, Any] = self._call("getProcessInfo", name)
        return info

    def shut_down(self) -> None:
        """Stop the parts, the last started first, and the daemon; waits until all are gone."""
        try:
            pid = self._call("getPID")
            self._call("shutdown")
        except UnavailableError:
            return
        if processes.gone_within(_PATIENCE, [psutil.Process(pid)] if psutil.pid_exists(pid) else []):
            raise UnavailableError(
                f"supervisord (pid {pid}) did not stop within {_PATIENCE:.0f} s; see its log in {self._home}/logs"
            )

    def end_orphans(self) -> None:
        """End what a killed supervisord left running, and one that cannot be reached."""
        processes.end_orphans(self._home, self._pid_file)

    def _call(self, method: str, *arguments: Any) -> Any:
        proxy = xmlrpc.client.ServerProxy(
            "http://localhost", transport=SupervisorTransport(None, None, f"unix://{self._socket}")
        )
        try:
            return getattr(proxy.supervisor, method)(*arguments)
        except OSError as error:
            raise UnavailableError(f"the stack in {self._home} is not running: {error}") from error
        except xmlrpc.client.Fault as error:
            if error.faultCode == Faults.BAD_NAME:
                raise UnavailableError(
                    f"the stack in {self._home} runs from before {arguments[0]} was a part of it: "
                    "`evergreen down`, then `evergreen up`"
                ) from error
            raise UnavailableError(f"supervisord refuses {method}{arguments}: {error.faultString}") from error

    def _write(self, parts: Iterable[Component]) -> None:
        logs = self._home / "logs"
        head: dict[str, dict[str, Any]] = {
            "unix_http_server": {"file": self._socket, "chmod": "0700"},
            "supervisord": {
                "logfile": logs / "supervisord.log",
                "pidfile": self._pid_file,
                "childlogdir": logs,
                "umask": "077",  # data, logs and caches are the owner's alone
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

    def _program(self, part: Component, logs: Path) -> dict[str, Any]:
        environment = {**part.environment, processes.HOME_VARIABLE: str(self._home)}
        launch = self._home / "launch" / f"{part.name}.json"
        launch.parent.mkdir(exist_ok=True)
        spec = {"command": part.command, "environment": environment, "fresh": [str(f) for f in part.fresh]}
        write_private(launch, orjson.dumps(spec))
        # -P: nothing may be imported from the working directory.
        words = (sys.executable, "-P", "-m", "infra.local.processes", str(launch))
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


def _quoted(text: str) -> str:
    return f'"{text}"'


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
