"""Threads for work that must not hold the event loop, with a bound on how much may wait."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from ml.errors import UnavailableError
from serving.problems import RETRY, ProblemError

P = ParamSpec("P")
T = TypeVar("T")


class Pool:
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
