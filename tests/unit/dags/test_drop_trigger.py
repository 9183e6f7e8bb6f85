"""The drop trigger: level-triggered, patient with a bucket that is away, and never in the event loop's way."""

import asyncio
import threading
import time

import pytest

from plugins import drop_trigger
from plugins.drop_trigger import DropTrigger


class Bucket:
    """A fake finder; `ready` is what it finds next, an exception is raised."""

    def __init__(self) -> None:
        self.ready: list[str] | Exception = []
        self.polls: list[float] = []
        self.threads: set[int] = set()
        self.takes = 0.0

    def find(self) -> tuple[list[str], float]:
        self.polls.append(time.monotonic())
        self.threads.add(threading.get_ident())
        time.sleep(self.takes)
        if isinstance(self.ready, Exception):
            raise self.ready
        return list(self.ready), 0.01


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    fake = Bucket()
    monkeypatch.setattr(drop_trigger, "finder", lambda: fake.find)
    return fake


async def next_drops(stream: object) -> list[str]:
    event = await asyncio.wait_for(anext(stream), 30)  # type: ignore[call-overload]
    drops: list[str] = event.payload["drops"]
    return drops


def test_a_drop_that_stays_ready_fires_again_and_others_with_it(bucket: Bucket) -> None:
    async def story() -> list[list[str]]:
        stream = DropTrigger(refire=0.2).run()
        bucket.ready = ["a", "b"]
        seen = [await next_drops(stream)]
        bucket.ready = ["b"]  # a was ingested; b was coalesced away
        seen.append(await next_drops(stream))
        bucket.ready = ["a"]  # a is ready once more, with other content
        seen.append(await next_drops(stream))
        return seen

    assert asyncio.run(story()) == [["a", "b"], ["b"], ["a"]]


def test_an_error_does_not_end_the_watch(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drop_trigger, "PAUSE_SECONDS", 0.01)

    async def story() -> list[str]:
        bucket.ready = OSError("away")
        stream = DropTrigger().run()
        waiting = asyncio.ensure_future(next_drops(stream))
        while len(bucket.polls) < 5:
            await asyncio.sleep(0.01)
        bucket.ready = ["a"]
        return await waiting

    assert asyncio.run(story()) == ["a"]


def test_polling_is_done_beside_the_event_loop_and_rests_after_a_slow_poll(bucket: Bucket) -> None:
    async def story() -> int:
        bucket.takes, ticks = 0.1, 0
        waiting = asyncio.ensure_future(next_drops(DropTrigger().run()))
        while len(bucket.polls) < 3:
            await asyncio.sleep(0.01)
            ticks += 1
        waiting.cancel()
        return ticks

    ticks = asyncio.run(story())
    assert threading.get_ident() not in bucket.threads
    assert ticks >= 2
    gaps = [later - earlier for earlier, later in zip(bucket.polls, bucket.polls[1:], strict=False)]
    assert min(gaps) >= 0.9 * bucket.takes * (1 + drop_trigger.MIN_PAUSE_FACTOR)
