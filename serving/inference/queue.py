"""The line for inference: one thread takes what waits in order, and nobody is let in who would wait too long.

Short jobs that find nobody there are done by the event loop itself.
"""

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final, ParamSpec, TypeVar

from ml.errors import UnavailableError
from serving.errors import RETRY, ProblemError

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

OVERLOADED: Final = "overloaded"
_PAUSE: Final = 0.1
_NEWEST: Final = 0.05
"""Weight of the newest job's seconds in the running mean."""
_BRIEF: Final = 0.001
"""Seconds of the running mean below which jobs are short: the event loop may do one itself."""
_PUT_OFF: Final = 0.01
"""Seconds that what is left to do may wait while jobs do: done for some answers at once it takes less time."""
_LATE: Final = 0.02
"""Seconds after which nothing more is done at once before what is left to do was done."""


@dataclass(frozen=True)
class _Job:
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]
    function: Callable[[Any], Any]
    argument: Any


_CLEAR_UP: Final = object()


class InferenceQueue:
    """A thread and the jobs before it. One thread a worker process: a core computes one image at a time anyway.

    Leaner than an executor: no lock and no second future a job.

    Args:
        longest: at most so many wait.
        seconds: nobody is let in who would wait longer than that, judged by how long jobs took lately.
    """

    def __init__(self, name: str, longest: int, seconds: float) -> None:
        self._longest, self._seconds = longest, seconds
        self._inside, self._mean = 0, 0.0
        self._jobs: SimpleQueue[Any] = SimpleQueue()
        self._after: deque[Callable[[], None]] = deque()
        self._since, self._called = 0.0, False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def wait(self) -> float:
        """Seconds that whoever comes now would probably wait."""
        return self._inside * self._mean

    def check(self) -> None:
        """Raises ProblemError (503, `overloaded`) for whoever would wait too long."""
        inside, wait = self._inside, self.wait()
        # Whoever finds nobody before it is taken, however slow the model is.
        if inside > self._longest or (inside > 1 and wait > self._seconds):
            raise ProblemError(
                503,
                OVERLOADED,
                f"{inside} requests are here already, which take {wait:.2f} s; try again",
                {"retry-after": str(max(1, math.ceil(wait)))},
            )

    async def run_patiently(self, function: Callable[[Any], T], argument: Any, seconds: float) -> T:
        """As `run`, for work whose caller was let in already: it comes again while the line is too long.

        Raises:
            ProblemError: the line was too long for so many seconds.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                return await self.run(function, argument)
            except ProblemError as error:
                if error.code != OVERLOADED or time.monotonic() > end:
                    raise
            await asyncio.sleep(min(_PAUSE, max(self.wait() - self._seconds, _PAUSE / 10)))

    async def run(self, function: Callable[[Any], T], argument: Any, brief: bool = False) -> T:
        """The function's result.

        Args:
            brief: probably a short job. While jobs are short and nobody waits it is done at once, by the event loop:
                handing it over and back would cost as much again.

        Raises:
            ProblemError: the line is too long.
        """
        loop = asyncio.get_running_loop()
        if brief and not self._inside and 0 < self._mean < _BRIEF and not self._is_late():
            return self._at_once(loop, function, argument)
        self.check()
        job = _Job(loop, loop.create_future(), function, argument)
        self._inside += 1
        self._jobs.put(job)
        result: T = await job.answer
        return result

    def afterwards(self, work: Callable[[], None]) -> None:
        """For a job: have this done by the thread when the job's result is on its way.

        At once where nobody waits, else within some 10 ms and the time of a job.
        """
        if not self._after:
            self._since = time.perf_counter()
        self._after.append(work)

    def close(self, seconds: float) -> None:
        """Nothing more is computed once what waits is done, for which it gets so long."""
        self._jobs.put(None)
        self._thread.join(seconds)

    def _at_once(self, loop: asyncio.AbstractEventLoop, function: Callable[[Any], T], argument: Any) -> T:
        started = time.perf_counter()
        try:
            return function(argument)
        finally:
            self._learn(time.perf_counter() - started)
            if self._after and not self._called:
                self._called = True
                loop.call_later(_PUT_OFF, self._jobs.put, _CLEAR_UP)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if job is _CLEAR_UP:
                self._called = False
                self._clear_up()
                continue
            started = time.perf_counter()
            result, error, wanted = None, None, not job.answer.cancelled()
            try:
                if wanted:  # else the caller is gone
                    result = job.function(job.argument)
            except BaseException as raised:  # noqa: BLE001 - the caller is to have it, the thread goes on
                error = raised
            # A RuntimeError: the loop is closed, and the caller with it.
            with suppress(RuntimeError):
                job.loop.call_soon_threadsafe(self._settle, job.answer, result, error)
            if self._jobs.empty() or time.perf_counter() - min(started, self._since) > _PUT_OFF:
                self._clear_up()
            if wanted:
                self._learn(time.perf_counter() - started)
        self._clear_up()

    def _settle(self, answer: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self._inside -= 1
        if answer.cancelled():
            return
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)

    def _is_late(self) -> bool:
        return bool(self._after) and time.perf_counter() - self._since > _LATE

    def _learn(self, seconds: float) -> None:
        self._mean += (seconds - self._mean) * (_NEWEST if self._mean else 1)

    def _clear_up(self) -> None:
        while self._after:
            try:
                self._after.popleft()()
            except Exception:
                log.exception("what was left to do after an answer failed")


class BoundedThreadPool:
    """`threads` run, `waiting` more may wait; whoever comes then is refused at once."""

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._limit = threads + waiting
        self._inside = 0

    def check(self) -> None:
        """Raises ProblemError (503, `overloaded`) when nothing more is taken."""
        if self._inside >= self._limit:
            raise ProblemError(503, "overloaded", f"{self._inside} requests are waiting already; try again", RETRY)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The function's result, computed in a thread of the pool.

        Raises:
            ProblemError: the pool is full.
        """
        self.check()
        self._inside += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: function(*args, **kwargs))
        finally:
            self._inside -= 1

    async def run_within(self, seconds: float, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `run`, for work that may hang: after `seconds` the caller is told, the thread goes on alone.

        Raises:
            UnavailableError: no result in time.
            ProblemError: the pool is full.
        """
        try:
            return await asyncio.wait_for(self.run(function, *args, **kwargs), seconds)
        except TimeoutError:
            raise UnavailableError(f"no answer within {seconds:g} s") from None

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
