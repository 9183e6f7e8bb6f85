"""The line for inference: order, bounds, errors, and callers who leave."""

import asyncio
import operator
import threading
import time
from collections.abc import Callable

import pytest

from serving.errors import ProblemError
from serving.inference.queue import InferenceQueue


class Gate:
    """A job that waits until it is let through."""

    def __init__(self) -> None:
        self.entered, self.open, self.done = threading.Event(), threading.Event(), list[int]()

    def pass_(self, number: int) -> int:
        self.entered.set()
        assert self.open.wait(60)
        self.done.append(number)
        return number


def test_jobs_are_done_in_the_order_in_which_they_came() -> None:
    async def story() -> list[int]:
        line, gate = InferenceQueue("test", 9, 9), Gate()
        asked = [asyncio.ensure_future(line.run(gate.pass_, n)) for n in range(5)]
        await asyncio.sleep(0)
        gate.open.set()
        assert await asyncio.gather(*asked) == list(range(5))
        line.close(1)
        return gate.done

    assert asyncio.run(story()) == list(range(5))


def test_nobody_is_let_in_beyond_the_bound_on_length() -> None:
    async def story() -> None:
        line, gate = InferenceQueue("test", 2, 9), Gate()
        asked = [asyncio.ensure_future(line.run(gate.pass_, n)) for n in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(ProblemError, match="3 requests are in the queue") as caught:
            await line.run(gate.pass_, 9)
        assert (caught.value.status, caught.value.code) == (503, "overloaded")
        assert caught.value.headers == {"retry-after": "1"}
        gate.open.set()
        await asyncio.gather(*asked)
        assert await line.run(gate.pass_, 4) == 4
        line.close(1)

    asyncio.run(story())


def test_who_would_wait_too_long_is_told_how_long() -> None:
    async def story() -> None:
        line, gate = InferenceQueue("test", 99, 0.5), Gate()
        line._mean_seconds = 2.0  # as if jobs took so long lately
        asked = [asyncio.ensure_future(line.run(gate.pass_, n)) for n in range(2)]  # the first waits for nobody
        await asyncio.sleep(0)
        assert line.estimated_wait() == 4.0
        with pytest.raises(ProblemError, match=r"about 4\.00 s") as caught:
            await line.run(gate.pass_, 9)
        assert caught.value.headers == {"retry-after": "4"}
        gate.open.set()
        await asyncio.gather(*asked)
        assert line._mean_seconds < 2.0  # quick ones are learnt from
        line.close(1)

    asyncio.run(story())


def test_who_was_let_in_already_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        line, gate = InferenceQueue("test", 0, 9), Gate()
        first = asyncio.ensure_future(line.run(gate.pass_, 1))
        second = asyncio.ensure_future(line.run_with_retries(gate.pass_, 2, 10))
        await asyncio.sleep(0.03)
        with pytest.raises(ProblemError, match="are in the queue"):
            await line.run_with_retries(gate.pass_, 3, 0)
        gate.open.set()
        assert (await first, await second) == (1, 2)
        line.close(1)

    asyncio.run(story())


def test_an_error_is_the_callers_and_the_line_goes_on() -> None:
    async def story() -> None:
        line = InferenceQueue("test", 9, 9)
        with pytest.raises(ZeroDivisionError):
            await line.run(lambda n: 1 // n, 0)
        assert await line.run(lambda n: 1 // n, 1) == 1
        line.close(1)

    asyncio.run(story())


def test_what_nobody_waits_for_is_not_computed() -> None:
    async def story() -> None:
        line, gate = InferenceQueue("test", 9, 9), Gate()
        first, second, third = (asyncio.ensure_future(line.run(gate.pass_, n)) for n in range(3))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.sleep(0)
        gate.open.set()
        assert (await first, await third) == (0, 2)
        assert gate.done == [0, 2]
        assert line.estimated_wait() == 0
        line.close(1)

    asyncio.run(story())


def test_what_is_left_to_do_comes_after_the_answer_and_is_not_forgotten() -> None:
    async def story() -> list[str]:
        line, events = InferenceQueue("test", 9, 9), list[str]()
        gate = threading.Event()

        def job(n: int) -> int:
            line.defer(lambda: events.append(f"left by {n}") if gate.wait(60) else None)
            return n

        assert await line.run(job, 1) == 1
        assert events == [], "the answer did not wait for it"
        gate.set()
        assert await line.run(job, 2) == 2
        line.close(10)
        return events

    assert asyncio.run(story()) == ["left by 1", "left by 2"]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def told_by(jobs: int, seconds: float) -> list[str]:
    """What jobs of so long do and leave to do, in the order in which it is done."""
    line, events = InferenceQueue("test", 99, 9), list[str]()

    def job(n: int) -> None:
        events.append(f"job {n}")
        time.sleep(seconds)
        line.defer(lambda: events.append(f"left by {n}"))

    await asyncio.gather(*(line.run(job, n) for n in range(jobs)))
    line.close(10)
    return events


def test_what_is_left_to_do_waits_for_company_but_not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "serving.inference.queue._DEFER_SECONDS", 0.2
    )  # longer than a busy machine needs from one job to the next
    events = asyncio.run(told_by(12, 0.04))
    assert [what for what in events if what.startswith("left")] == [f"left by {n}" for n in range(12)]
    assert events.index("left by 0") > events.index("job 1"), "others waited"
    assert events.index("left by 0") < events.index("job 11"), "it was not put off to the end"


def test_what_is_left_to_do_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        line = InferenceQueue("test", 9, 9)

        def job(n: int) -> int:
            line.defer(lambda: operator.floordiv(1, n))
            return n

        assert [await line.run(job, n) for n in (0, 1)] == [0, 1]
        line.close(10)

    asyncio.run(story())
    assert [r.message for r in caplog.records] == ["deferred work of a prediction failed"]


def test_a_short_job_is_done_at_once_while_nobody_waits() -> None:
    async def story() -> None:
        line, here = InferenceQueue("test", 9, 9), threading.get_ident()
        left = list[int]()

        def where(_: object) -> int:
            line.defer(lambda: left.append(threading.get_ident()))
            return threading.get_ident()

        thread = await line.run(where, None, short=True)
        assert thread != here, "how long jobs take is not known yet"
        line._mean_seconds = 0.0001
        assert await line.run(where, None, short=True) == here
        assert await line.run(where, None) == thread, "nobody said that it is short"
        line._mean_seconds = 0.5
        assert await line.run(where, None, short=True) == thread, "jobs are long"
        line._mean_seconds, gate = 0.0001, Gate()
        waiting = asyncio.ensure_future(line.run(gate.pass_, 1))
        await asyncio.sleep(0)
        behind = asyncio.ensure_future(line.run(where, None, short=True))
        await asyncio.sleep(0)
        gate.open.set()
        assert (await waiting, await behind) == (1, thread), "one was inside"
        line.close(10)
        assert left == [thread] * 5, "what is left is the thread's, whoever did the job"

    asyncio.run(story())


def test_the_place_of_who_left_is_free_when_the_thread_came_to_it() -> None:
    async def story() -> None:
        line, gate = InferenceQueue("test", 9, 9), Gate()
        line._mean_seconds = 0.0001
        gone = asyncio.ensure_future(line.run(gate.pass_, 1))
        await until(gate.entered.is_set)
        gone.cancel()
        await asyncio.sleep(0)
        behind = asyncio.ensure_future(line.run(lambda _: threading.get_ident(), None, short=True))
        await asyncio.sleep(0)
        gate.open.set()
        assert await behind != threading.get_ident(), "the thread was still at it"
        assert line.estimated_wait() == 0
        line.close(10)

    asyncio.run(story())


def test_an_error_of_a_job_done_at_once_is_the_callers() -> None:
    async def story() -> None:
        line = InferenceQueue("test", 9, 9)
        line._mean_seconds = 0.0001
        with pytest.raises(ZeroDivisionError):
            await line.run(lambda n: 1 // n, 0, short=True)
        assert await line.run(lambda n: 1 // n, 1, short=True) == 1
        line.close(10)

    asyncio.run(story())


def test_nothing_is_done_at_once_while_what_is_left_is_late() -> None:
    async def story() -> None:
        line, here, gate = InferenceQueue("test", 9, 9), threading.get_ident(), threading.Event()
        line._mean_seconds = 0.0001

        def stall() -> None:
            gate.wait(60)

        def where(_: object) -> int:
            line.defer(stall)
            return threading.get_ident()

        assert await line.run(where, None, short=True) == here
        await until(lambda: not line._deferred)  # the disk stalls
        assert await line.run(where, None, short=True) == here, "the thread took what was left, nothing waits"
        await asyncio.sleep(0.05)
        third = asyncio.ensure_future(line.run(where, None, short=True))
        await asyncio.sleep(0.05)
        assert not third.done(), "it stands in the line, which is bounded"
        gate.set()
        assert await third != here
        line.close(10)

    asyncio.run(story())


def test_what_a_long_job_leaves_does_not_wait_for_the_next_one() -> None:
    events = asyncio.run(told_by(3, 0.02))
    assert events == ["job 0", "left by 0", "job 1", "left by 1", "job 2", "left by 2"]


def test_who_left_before_the_thread_came_teaches_nothing() -> None:
    async def story() -> None:
        line, gate = InferenceQueue("test", 9, 9), Gate()
        first, second = (asyncio.ensure_future(line.run(gate.pass_, n)) for n in range(2))
        await until(gate.entered.is_set)
        await asyncio.sleep(0.02)
        second.cancel()
        gate.open.set()
        await first
        line.close(10)
        assert line._mean_seconds > 0.015

    asyncio.run(story())
