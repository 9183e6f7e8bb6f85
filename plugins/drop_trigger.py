"""Announces ready drops in the bucket.

Level-triggered: a drop that stays ready is announced again, so an event that Airflow coalesces away, or
a run that failed, loses nothing.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

REFIRE_SECONDS = 20.0
PAUSE_SECONDS = 1.0  # before the first poll returned the configured interval
MIN_PAUSE_FACTOR = 4  # the pause is at least this multiple of a poll's duration: slow polls must not occupy a core

Find = Callable[[], tuple[Sequence[str], float]]


class DropTrigger(BaseEventTrigger):
    """One event for each poll that finds a drop not announced yet, or announced `refire` seconds ago."""

    def __init__(self, refire: float = REFIRE_SECONDS) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in Airflow
        self.refire = refire

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Where the triggerer finds this class; settings are read there, so no secret is stored here."""
        return "plugins.drop_trigger.DropTrigger", {"refire": self.refire}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Never ends; a poll that fails is logged and tried again."""
        announced: dict[str, float] = {}
        find: Find | None = None
        failing = False
        pause = PAUSE_SECONDS
        while True:
            try:
                if find is None:
                    find = await asyncio.to_thread(finder)
                began = time.monotonic()
                ready, interval = await asyncio.to_thread(find)
                pause = max(interval, MIN_PAUSE_FACTOR * (time.monotonic() - began))
                if failing:
                    self.log.info("the bucket answers again")
                failing = False
                now = time.monotonic()
                due = due_drops(ready, announced, now, self.refire)
                announced = {d: now if d in due else announced[d] for d in ready}
                if due:
                    yield TriggerEvent({"drops": due})
            except Exception:
                if not failing:
                    self.log.exception("looking for ready drops failed; retrying")
                failing = True
            await asyncio.sleep(pause)


def due_drops(ready: Sequence[str], announced: dict[str, float], now: float, refire: float) -> list[str]:
    """Which ready drops must be announced now."""
    return [d for d in ready if d not in announced or now - announced[d] >= refire]


def finder() -> Find:
    """Asks the configured bucket: ready prefixes, and the seconds to wait before asking again."""
    from ml.context import connect
    from ml.intake.find import find_ready
    from ml.settings import Settings

    context = connect(Settings.load(os.environ))

    def find() -> tuple[Sequence[str], float]:
        return [d.prefix for d in find_ready(context)], context.settings.poll_seconds

    return find
