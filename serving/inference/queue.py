"""The inference queue: one thread runs the jobs in order, and a request that would wait too long is refused.

Short jobs are run by the event loop itself while the queue is empty.
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
_MEAN_WEIGHT: Final = 0.05
"""Weight of the newest job's duration in the moving average."""
_SHORT_SECONDS: Final = 0.001
"""Mean seconds per job below which the event loop may run a job itself."""
_DEFER_SECONDS: Final = 0.01
"""Seconds that deferred work may wait while jobs run: in batches it takes less time."""
_OVERDUE_SECONDS: Final = 0.02
"""Seconds of delay of deferred work after which no job is run inline until that work is done."""


@dataclass(frozen=True)
class _Job:
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]
    function: Callable[[Any], Any]
    argument: Any


_RUN_DEFERRED: Final = object()


class InferenceQueue:
    """A thread and its queue of jobs. One thread per worker process: a core computes one image at a time anyway.

    Cheaper than an executor: no lock and no second future per job.

    Args:
        max_waiting: the most jobs that may wait.
        max_wait_seconds: a job is refused if its estimated wait is longer.
    """

    def __init__(self, name: str, max_waiting: int, max_wait_seconds: float) -> None:
        self._max_waiting, self._max_wait_seconds = max_waiting, max_wait_seconds
        self._in_flight, self._mean_seconds = 0, 0.0
        self._jobs: SimpleQueue[Any] = SimpleQueue()
        self._deferred: deque[Callable[[], None]] = deque()
        self._deferred_since, self._wakeup_scheduled = 0.0, False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def estimated_wait(self) -> float:
        """Estimated seconds that a new job would wait."""
        return self._in_flight * self._mean_seconds

    def check(self) -> None:
        """Raises ProblemError (503, `overloaded`) if a new job would wait too long."""
        in_flight, wait = self._in_flight, self.estimated_wait()
        # A job with at most one ahead of it is accepted, however slow the model is.
        if in_flight > self._max_waiting or (in_flight > 1 and wait > self._max_wait_seconds):
            raise ProblemError(
                503,
                OVERLOADED,
                f"{in_flight} requests are in the queue, about {wait:.2f} s of work; try again",
                {"retry-after": str(max(1, math.ceil(wait)))},
            )

    async def run_with_retries(self, function: Callable[[Any], T], argument: Any, seconds: float) -> T:
        """As `run`, for requests that were accepted before: tries again while the queue is full.

        Raises:
            ProblemError: the queue was full for `seconds`.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                return await self.run(function, argument)
            except ProblemError as error:
                if error.code != OVERLOADED or time.monotonic() > end:
                    raise
            await asyncio.sleep(min(_PAUSE, max(self.estimated_wait() - self._max_wait_seconds, _PAUSE / 10)))

    async def run(self, function: Callable[[Any], T], argument: Any, short: bool = False) -> T:
        """The function's result.

        Args:
            short: probably a short job. While jobs are short and none waits, the event loop runs it inline:
                passing it to the thread and back would double its cost.

        Raises:
            ProblemError: the queue is full.
        """
        loop = asyncio.get_running_loop()
        if short and not self._in_flight and 0 < self._mean_seconds < _SHORT_SECONDS and not self._is_overdue():
            return self._run_inline(loop, function, argument)
        self.check()
        job = _Job(loop, loop.create_future(), function, argument)
        self._in_flight += 1
        self._jobs.put(job)
        result: T = await job.answer
        return result

    def defer(self, work: Callable[[], None]) -> None:
        """For a job: have the queue's thread call `work` once the job's result is delivered.

        Immediately while no job waits, else within some 10 ms and the duration of a job.
        """
        if not self._deferred:
            self._deferred_since = time.perf_counter()
        self._deferred.append(work)

    def close(self, seconds: float) -> None:
        """Finish the waiting jobs, for up to `seconds`, and stop the thread."""
        self._jobs.put(None)
        self._thread.join(seconds)

    def _run_inline(self, loop: asyncio.AbstractEventLoop, function: Callable[[Any], T], argument: Any) -> T:
        started = time.perf_counter()
        try:
            return function(argument)
        finally:
            self._update_mean(time.perf_counter() - started)
            if self._deferred and not self._wakeup_scheduled:
                self._wakeup_scheduled = True
                loop.call_later(_DEFER_SECONDS, self._jobs.put, _RUN_DEFERRED)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if job is _RUN_DEFERRED:
                self._wakeup_scheduled = False
                self._run_deferred()
                continue
            started = time.perf_counter()
            result, error, is_pending = None, None, not job.answer.cancelled()
            try:
                if is_pending:  # else the caller is gone
                    result = job.function(job.argument)
            except BaseException as exception:  # noqa: BLE001 - delivered to the caller; the thread continues
                error = exception
            # RuntimeError: the event loop is closed, so there is no caller any more.
            with suppress(RuntimeError):
                job.loop.call_soon_threadsafe(self._settle, job.answer, result, error)
            if self._jobs.empty() or time.perf_counter() - min(started, self._deferred_since) > _DEFER_SECONDS:
                self._run_deferred()
            if is_pending:
                self._update_mean(time.perf_counter() - started)
        self._run_deferred()

    def _settle(self, answer: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self._in_flight -= 1
        if answer.cancelled():
            return
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)

    def _is_overdue(self) -> bool:
        return bool(self._deferred) and time.perf_counter() - self._deferred_since > _OVERDUE_SECONDS

    def _update_mean(self, seconds: float) -> None:
        self._mean_seconds += (seconds - self._mean_seconds) * (_MEAN_WEIGHT if self._mean_seconds else 1)

    def _run_deferred(self) -> None:
        while self._deferred:
            try:
                self._deferred.popleft()()
            except Exception:
                log.exception("deferred work of a prediction failed")


class BoundedThreadPool:
    """A pool of `threads` with a queue of `waiting`; a job beyond that is refused at once."""

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._limit = threads + waiting
        self._in_flight = 0

    def check(self) -> None:
        """Raises ProblemError (503, `overloaded`) while the queue is full."""
        if self._in_flight >= self._limit:
            raise ProblemError(503, "overloaded", f"{self._in_flight} requests are waiting already; try again", RETRY)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The function's result, computed in a thread of the pool.

        Raises:
            ProblemError: the pool is full.
        """
        self.check()
        self._in_flight += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: function(*args, **kwargs))
        finally:
            self._in_flight -= 1

    async def run_within(self, seconds: float, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `run`, for work that may hang: after `seconds` this raises, while the thread continues.

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
