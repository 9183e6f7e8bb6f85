"""Worker processes, each with its own listening socket, kept alive by uvicorn's supervisor.

With one shared socket, the worker that wakes first accepts every waiting connection and the others
none. With `SO_REUSEPORT` the kernel distributes new connections among the sockets (socket(7)).

Workers are forked from the supervisor, which has imported everything and runs no thread: they share its
memory, and the replacement of a dead one starts at once.
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

from ml.cores import available_cores
from serving.auth.rate_limit import RateLimiter
from serving.server.balance import ConnectionBalancer, ConnectionCounts
from serving.server.protocol import Protocol, balanced_protocol

_GRACE: Final = 10  # seconds that open requests get to finish when the service is stopped
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


class _Worker(multiprocess.Process):
    """A forked worker, where uvicorn's starts a new interpreter; ends when its parent process dies."""

    connection_counts: ClassVar[ConnectionCounts]
    rate_limiter: ClassVar[RateLimiter]

    def __init__(self, config: Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        forked = multiprocessing.get_context("fork")
        self.process = cast("Any", forked.Process(target=subprocess_started, args=(config, self.target, [], None)))
        self._slot = self.connection_counts.claim(self.process.is_alive)

    def join(self) -> None:
        super().join()
        if self._slot:
            self.connection_counts.release(self._slot[0])

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        """Entry point of the worker process."""
        del sockets
        if prctl := getattr(ctypes.CDLL(None), "prctl", None):
            prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        balancer = None
        if self._slot:
            number, is_replacement = self._slot
            balancer = ConnectionBalancer(self.connection_counts.counts, number, is_replacement=is_replacement)
            self.config.http = balanced_protocol(balancer)
        self.config.app = partial(importlib.import_module("serving.app").create_app, balancer, self.rate_limiter)
        super().target([_bind_socket(self.config.host, self.config.port)])


def serve(arguments: Sequence[str]) -> int:
    """Serve until stopped; returns the exit code, 1 if the address is in use."""
    parser = argparse.ArgumentParser("python -m serving", description="The prediction service.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=available_cores(), help="default: one a core")
    log_config = os.environ.get("UVICORN_LOG_CONFIG")
    parser.add_argument("--log-config", default=log_config, help="as uvicorn reads it; default: UVICORN_LOG_CONFIG")
    args = parser.parse_args(arguments)
    try:
        _bind_socket(args.host, args.port, shared=False).close()  # a second service would get half of the connections
    except OSError as error:
        sys.stderr.write(f"{args.host}:{args.port} cannot be listened on: {error}; stop what does, or use --port\n")
        return 1
    config = uvicorn.Config(
        "serving.app:create_app",
        factory=True,
        host=args.host,
        port=args.port,
        workers=args.workers,
        http=Protocol,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE,
        **({"log_config": args.log_config} if args.log_config else {}),
    )
    # An image is computed on one core, and the workers use all cores; numpy reads this when it is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    importlib.import_module("serving.server.preload")
    _Worker.connection_counts, _Worker.rate_limiter = ConnectionCounts(), RateLimiter()
    multiprocess.Process = _Worker  # type: ignore[misc]  # the supervisor has no option for its worker class
    multiprocess.Multiprocess(config, []).run()
    return 0


def _bind_socket(host: str, port: int, shared: bool = True) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    server_socket = socket.socket(family, kind, protocol)
    server_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
    try:
        server_socket.bind(address)
        if not shared:
            server_socket.listen()
    except OSError:
        server_socket.close()
        raise
    return server_socket
