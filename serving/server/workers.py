"""Worker processes, each with a listening socket of its own, kept alive by uvicorn's supervisor.

With one socket for all, the worker that wakes first takes every connection that waits and the others
none. With `SO_REUSEPORT` the kernel deals new connections out among the sockets (socket(7)).

Workers are forked from the supervisor, which has imported everything and runs no thread: they share its
memory, and one that takes the place of a dead one is there at once.
"""

import argparse
import ctypes
import importlib
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Final, cast

import uvicorn
from uvicorn import Config
from uvicorn._subprocess import subprocess_started
from uvicorn.supervisors import multiprocess

from serving.auth.rate_limit import RateLimiter
from serving.server.balance import ConnectionBalancer, ConnectionCounts
from serving.server.protocol import Protocol, balanced

_GRACE: Final = 10  # seconds that open requests get when the service is stopped
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


class _Worker(multiprocess.Process):
    """Forked, where uvicorn's own starts an interpreter anew; ends with the process that it was forked from."""

    seats: ClassVar[ConnectionCounts]
    rates: ClassVar[RateLimiter]

    def __init__(self, config: Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        forked = multiprocessing.get_context("fork")
        self.process = cast("Any", forked.Process(target=subprocess_started, args=(config, self.target, [], None)))
        self._seat = self.seats.take(self.process.is_alive)

    def join(self) -> None:
        super().join()
        if self._seat:
            self.seats.leave(self._seat[0])

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        """Runs in the worker."""
        del sockets
        if prctl := getattr(ctypes.CDLL(None), "prctl", None):
            prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        balance = None
        if self._seat:
            number, is_replacement = self._seat
            balance = ConnectionBalancer(self.seats.counts, number, is_replacement=is_replacement)
            self.config.http = balanced(balance)
        self.config.app = partial(importlib.import_module("serving.app").create_app, balance, self.rates)
        super().target([_bound(self.config.host, self.config.port)])


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
        http=Protocol,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE,
        **({"log_config": asked.log_config} if asked.log_config else {}),
    )
    # An image is computed on one core, and the workers have them all; read when numpy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    importlib.import_module("serving.server.preload")
    _Worker.seats, _Worker.rates = ConnectionCounts(), RateLimiter()
    multiprocess.Process = _Worker  # type: ignore[misc]  # the supervisor offers no other way to name its workers
    multiprocess.Multiprocess(config, []).run()
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
