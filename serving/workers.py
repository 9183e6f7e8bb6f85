"""Worker processes, each with a listening socket of its own, kept alive by uvicorn's supervisor.

With one socket for all, the worker that wakes first takes every connection that waits and the others
none. With `SO_REUSEPORT` the kernel deals new connections out among the sockets (socket(7)).
"""

import argparse
import os
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import uvicorn
from uvicorn.supervisors.multiprocess import Multiprocess

_GRACE: Final = 10  # seconds that open requests get when the service is stopped


class _Own:
    """Becomes a listening socket where it is unpickled: in the worker, and so in no other process."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)

    def __reduce__(self) -> tuple[Callable[[str, int], socket.socket], tuple[str, int]]:
        return _bound, self._address


def serve(arguments: Sequence[str]) -> int:
    """Serve until told to stop; 1 where the address is somebody else's."""
    parser = argparse.ArgumentParser("python -m serving", description="The prediction service.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="default: one a core")
    told = os.environ.get("UVICORN_LOG_CONFIG")
    parser.add_argument("--log-config", default=told, help="as uvicorn reads it; default: UVICORN_LOG_CONFIG")
    asked = parser.parse_args(arguments)
    try:
        _bound(asked.host, asked.port, shared=False).close()  # a second service would get half of the connections
    except OSError as error:
        sys.stderr.write(f"{asked.host}:{asked.port} cannot be listened on: {error}; stop what does, or use --port\n")
        return 1
    config = uvicorn.Config(
        "serving.app:create_app",
        factory=True,
        host=asked.host,
        port=asked.port,
        workers=asked.workers,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE,
        **({"log_config": asked.log_config} if asked.log_config else {}),
    )
    Multiprocess(config, [cast("Any", _Own(asked.host, asked.port))]).run()
    return 0


def _bound(host: str, port: int, shared: bool = True) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
    try:
        made.bind(address)
        if not shared:
            made.listen()
    except OSError:
        made.close()
        raise
    return made
