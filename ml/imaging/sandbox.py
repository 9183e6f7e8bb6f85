"""Decodes images in separate processes, so that a hostile image can at worst crash one of those.

Plain subprocesses and not `multiprocessing`, which forks a process that has threads, imports the caller's
main module again, or fails where the caller is a daemon.
"""

import contextlib
import fcntl
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

from ml.cores import available_cores
from ml.errors import UnavailableError
from ml.imaging import process_limits, sandbox_process
from ml.imaging.images import Limits

_MAX_PROCESSES: Final = 4  # per task; Airflow runs several tasks on one machine
_PIPE_SIZE: Final = 1 << 20  # bytes; holds a whole batch of small images
_SECONDS: Final = 10.0  # of processor time per image; 40 megapixels take about one

DecodeResult = dict[str, Any]
"""The features of an image (`ml.imaging.features.Features`), or `problem`: why it could not be decoded."""


class DecoderPool:
    """A pool of decoding processes. Use it in a `with` statement: that starts the first process and stops all.

    Args:
        limits: of each image.
        seconds: processor time that one image may take.
        memory: bytes a process may use; None: enough for the largest image.
        processes: the largest number of processes; None: as many as there are cores.
        program: arguments of the Python interpreter, in place of `ml.imaging.sandbox_process`.
    """

    def __init__(
        self,
        limits: Limits,
        seconds: float = _SECONDS,
        memory: int | None = None,
        processes: int | None = None,
        program: Sequence[str] = ("-m", sandbox_process.__name__),
    ) -> None:
        processes = min(_MAX_PROCESSES, processes or available_cores())
        self._seconds = seconds
        max_memory = memory or process_limits.memory_for(limits.max_pixels)
        arguments = [str(v) for v in (limits.max_bytes, limits.max_pixels, max_memory, seconds)]
        self._command = [sys.executable, "-P", "-W", "ignore", *program, *arguments]
        self._idle: SimpleQueue[_Process] = SimpleQueue()
        self._threads = ThreadPoolExecutor(processes, "decoding")

    def __enter__(self) -> Self:
        self._idle.put(_Process(self._command))  # starts while the first images are fetched
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().close()

    def submit(self, batch: Sequence[bytes]) -> "Future[list[DecodeResult]]":
        """Decode and measure a batch; the future holds the results in order.

        Raises (from the future):
            UnavailableError: the decoding processes do not start on this machine.
        """
        return self._threads.submit(self._decode, batch)

    def _decode(self, batch: Sequence[bytes]) -> list[DecodeResult]:
        results, _ = self._send(batch)
        return results if results is not None else [self._decode_single(data) for data in batch]

    def _decode_single(self, data: bytes) -> DecodeResult:
        """Retry an image of a batch that killed its process; only the image that does so again is at fault."""
        results, status = self._send([data])
        if results is not None:
            return results[0]
        if -status == signal.SIGPROF:
            return {"problem": f"decoding the image takes more than {self._seconds:g} s of processor time"}
        return {"problem": f"decoding the image ends the decoder (status {status})"}

    def _send(self, batch: Sequence[bytes]) -> tuple[list[DecodeResult] | None, int]:
        """The results, or None and the exit status of the process that died."""
        try:
            process = self._idle.get_nowait()
        except Empty:
            process = _Process(self._command)
        if (results := process.decode(batch)) is None:
            return None, process.close()
        self._idle.put(process)
        return results, 0


class _Process:
    """One decoding process; it gets its settings on the command line, and no credentials."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=process_limits.environment(),
            start_new_session=True,
        )
        self._stdin = cast("IO[bytes]", self._process.stdin)
        with contextlib.suppress(AttributeError, OSError):  # Linux only, up to the limit for unprivileged users
            fcntl.fcntl(self._stdin, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        self._stdout = cast("IO[bytes]", self._process.stdout)
        self._ready = False

    def decode(self, batch: Sequence[bytes]) -> list[DecodeResult] | None:
        """The results of a batch; None if the process died.

        Raises:
            UnavailableError: the process did not start.
        """
        if not self._ready and self._stdout.readline() != sandbox_process.READY:
            status = self.close()
            raise UnavailableError(f"a decoding process does not start (status {status}); its standard error says why")
        self._ready = True
        try:
            self._stdin.write(struct.pack(f"<{len(batch) + 1}I", len(batch), *map(len, batch)))
            self._stdin.writelines(batch)
            self._stdin.flush()
        except OSError:
            return None
        line = self._stdout.readline()
        return cast("list[DecodeResult]", orjson.loads(line)) if line.endswith(b"\n") else None

    def close(self) -> int:
        """Stop the process and return its exit status, negative for a signal."""
        with contextlib.suppress(OSError):
            self._stdin.close()  # the process exits at the end of its input
        self._stdout.close()
        return self._process.wait()
