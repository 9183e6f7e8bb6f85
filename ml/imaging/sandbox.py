"""Decodes images in processes of their own, so that an image can at worst end one of those.

Plain subprocesses and not `multiprocessing`: that forks what has threads, imports the caller's main
module again, or is refused where the caller is a daemon.
"""

import contextlib
import fcntl
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import IO, Any, Final, Self, cast

import orjson

from ml.errors import UnavailableError
from ml.imaging import process_limits, sandbox_process
from ml.imaging.images import Limits

_MOST: Final = 4  # processes a task; Airflow runs several tasks on one machine
_PIPE: Final = 1 << 20  # bytes on their way to a process: a batch of small images as a whole
_SECONDS: Final = 10.0  # of processor time an image; 40 megapixels take about one

Answer = dict[str, Any]
"""The features of an image (`ml.imaging.features.Features`), or `problem`: why it has none."""


class Decoders:
    """A few decoding processes; use it in a `with` statement, which starts one and ends them all.

    Args:
        limits: of an image.
        seconds: processor time that one image may take.
        memory: bytes a process may have; None: enough for the largest image.
        processes: at most so many; None: as many as there are cores.
        program: what a process runs, in place of `ml.imaging.sandbox_process`.
    """

    def __init__(
        self,
        limits: Limits,
        seconds: float = _SECONDS,
        memory: int | None = None,
        processes: int | None = None,
        program: Sequence[str] = ("-m", sandbox_process.__name__),
    ) -> None:
        processes = min(_MOST, processes or _cores())
        self._seconds = seconds
        bound = memory or process_limits.memory_for(limits.max_pixels)
        arguments = [str(v) for v in (limits.max_bytes, limits.max_pixels, bound, seconds)]
        self._command = [sys.executable, "-P", "-W", "ignore", *program, *arguments]
        self._idle: SimpleQueue[_Process] = SimpleQueue()
        self._threads = ThreadPoolExecutor(processes, "decoding")

    def __enter__(self) -> Self:
        self._idle.put(_Process(self._command))  # it starts while the first images are fetched
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().end()

    def submit(self, batch: Sequence[bytes]) -> "Future[list[Answer]]":
        """Decode and measure; the answers come in order.

        Raises (the future):
            UnavailableError: the decoding processes do not start on this machine.
        """
        return self._threads.submit(self._answers, batch)

    def _answers(self, batch: Sequence[bytes]) -> list[Answer]:
        answers, _ = self._ask(batch)
        return answers if answers is not None else [self._alone(data) for data in batch]

    def _alone(self, data: bytes) -> Answer:
        """An image of a batch that ended its process: to blame is only what does so again, alone."""
        answers, status = self._ask([data])
        if answers is not None:
            return answers[0]
        if -status == signal.SIGPROF:
            return {"problem": f"decoding the image takes more than {self._seconds:g} s of processor time"}
        return {"problem": f"decoding the image ends the decoder (status {status})"}

    def _ask(self, batch: Sequence[bytes]) -> tuple[list[Answer] | None, int]:
        """The answers, or None and the exit status of the process that gave none."""
        try:
            process = self._idle.get_nowait()
        except Empty:
            process = _Process(self._command)
        if (answers := process.ask(batch)) is None:
            return None, process.end()
        self._idle.put(process)
        return answers, 0


class _Process:
    """One decoding process; what it needs to know comes with its command, what it must not know is left out."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=process_limits.environment(),
            start_new_session=True,
        )
        self._incoming = cast("IO[bytes]", self._process.stdin)
        with contextlib.suppress(AttributeError, OSError):  # Linux, and as much as an unprivileged user may have
            fcntl.fcntl(self._incoming, fcntl.F_SETPIPE_SZ, _PIPE)
        self._outgoing = cast("IO[bytes]", self._process.stdout)
        self._greeted = False

    def ask(self, batch: Sequence[bytes]) -> list[Answer] | None:
        """The answers to a batch; None if the process ended over it.

        Raises:
            UnavailableError: the process did not even start.
        """
        if not self._greeted and self._outgoing.readline() != sandbox_process.READY:
            status = self.end()
            raise UnavailableError(f"a decoding process does not start (status {status}); its standard error says why")
        self._greeted = True
        try:
            self._incoming.write(struct.pack(f"<{len(batch) + 1}I", len(batch), *map(len, batch)))
            self._incoming.writelines(batch)
            self._incoming.flush()
        except OSError:
            return None
        line = self._outgoing.readline()
        return cast("list[Answer]", orjson.loads(line)) if line.endswith(b"\n") else None

    def end(self) -> int:
        """End it, if it has not, and forget it; returns the exit status, negative for a signal."""
        with contextlib.suppress(OSError):
            self._incoming.close()  # which it takes as the end of its work
        self._outgoing.close()
        return self._process.wait()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
