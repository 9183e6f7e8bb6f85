"""Waits for a cycle to end, showing each stage as its seconds arrive in the catalog."""

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text
from sqlalchemy import Engine, select

from ml.catalog.engine import transaction
from ml.catalog.tables import cycles, decisions, drops
from ml.errors import UnavailableError

STAGES = ("claim", "inspect", "validate", "accept", "train", "gate", "release")


@dataclass(frozen=True)
class Finished:
    """One trip round the loop, read from the catalog when it was over."""

    drop: dict[str, Any]
    cycle: dict[str, Any]
    decision: dict[str, Any] | None

    @property
    def drop_to_live(self) -> float | None:
        """Seconds from the drop's marker to the new model answering."""
        live: datetime | None = self.cycle["live_at"]
        return round((live - self.drop["ready_at"]).total_seconds(), 1) if live else None


def wait_for(engine: Engine, prefix: str, console: Console, seconds: float = 300) -> Finished:
    """Block until the cycle of the newest drop at `prefix` has ended.

    Raises:
        UnavailableError: it did not end in time; the message names the last stage that did.
    """
    deadline = time.monotonic() + seconds
    done: dict[str, float] = {}
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        while time.monotonic() < deadline:
            if found := _look(engine, prefix):
                done = found.cycle["seconds"]
                if found.cycle["finished_at"]:
                    break
            live.update(Spinner("dots", _line(done, found is not None)))
            time.sleep(0.2)
        else:
            last = next((s for s in reversed(STAGES) if s in done), "nothing")
            raise UnavailableError(
                f"the cycle of s3://…/{prefix} did not end within {seconds:.0f} s; the last stage done is {last}. "
                "The Airflow UI shows which task waits or fails."
            )
    console.print(_line(done, started=True, ended=True))
    return found


def _look(engine: Engine, prefix: str) -> Finished | None:
    with transaction(engine) as connection:
        drop = connection.execute(
            select(drops).where(drops.c.prefix == prefix).order_by(drops.c.found_at.desc()).limit(1)
        ).mappings()
        if not (row := drop.first()):
            return None
        cycle = connection.execute(select(cycles).where(cycles.c.drop_id == row["id"])).mappings().first()
        if cycle is None:
            return None
        decision = connection.execute(select(decisions).where(decisions.c.id == cycle["decision_id"])).mappings()
        found = decision.first()
        return Finished(dict(row), dict(cycle), dict(found) if found else None)


def _line(done: dict[str, float], started: bool, ended: bool = False) -> Text:
    line = Text("  ")
    running = started and not ended
    for stage in STAGES:
        if stage in done:
            line.append(f"✓ {stage} ", "green").append(f"{done[stage]:.1f}s  ", "dim")
        elif running:
            line.append(f"… {stage}", "yellow")
            running = False
    return line if started else Text("  waiting for Airflow to notice the drop", "dim")
