"""Waits for a cycle to end, showing each stage as its seconds arrive in the catalog."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import httpx
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text
from sqlalchemy import Engine, select

from ml.catalog.cycles import CycleRecord
from ml.catalog.decisions import Decision
from ml.catalog.drops import DropRecord
from ml.catalog.engine import transaction
from ml.catalog.tables import cycles, decisions, drops
from ml.context import Context
from ml.errors import UnavailableError
from ml.settings import Settings

STAGES = ("claim", "inspect", "validate", "check labels", "accept", "train", "gate", "release")

STALL_SECONDS: Final = 600.0
"""Seconds without any progress before a wait fails. The total is not limited: a busy machine is slow, not broken."""

_STEPS_EVERY = 3.0


@dataclass(frozen=True)
class CycleResult:
    """One cycle, as read from the catalog when it ended."""

    drop: DropRecord
    cycle: CycleRecord
    decision: Decision | None

    @property
    def drop_to_live(self) -> float | None:
        """Seconds from the drop's marker to the new model answering."""
        ready_at, live_at = self.drop.ready_at, self.cycle.live_at
        return round((live_at - ready_at).total_seconds(), 1) if ready_at and live_at else None


class StallDetector:
    """Ends a wait when the observed state has not changed for too long."""

    def __init__(self, seconds: float = STALL_SECONDS) -> None:
        self._seconds = seconds
        self._state: object = None
        self._since = time.monotonic()

    def check(self, state: object, waiting_for: str) -> None:
        """Raises UnavailableError if `state` has not changed for the given seconds."""
        now = time.monotonic()
        if state != self._state:
            self._state, self._since = state, now
        elif now - self._since > self._seconds:
            raise UnavailableError(f"waited for {waiting_for}; nothing has changed for {self._seconds:.0f} s")


def wait_until(read: Callable[[], object], expected: Callable[[Any], bool], waiting_for: str) -> Any:
    """Poll until the state is as expected, as long as it changes at least every `STALL_SECONDS`.

    Raises:
        UnavailableError: the state stopped changing; the message has the last one.
    """
    stall = StallDetector()
    while not expected(state := read()):
        stall.check(state, f"{waiting_for}, which is {state}")
        time.sleep(0.2)
    return state


def wait_for_cycle(context: Context, prefix: str, console: Console) -> CycleResult:
    """Block until the cycle of the newest drop at `prefix` has ended, or its drop waits for a person.

    Raises:
        UnavailableError: no progress for `STALL_SECONDS`: no stage ended, no epoch was logged; the message names
            the last stage that did end.
    """
    stall, polled_at = StallDetector(), 0.0
    steps: dict[str, int] = {}
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        while not ((result := _read_cycle(context.engine, prefix)) and _ended(result)):
            seconds = result.cycle.seconds if result else {}
            if result and _next(seconds) == "train" and time.monotonic() - polled_at > _STEPS_EVERY:
                steps, polled_at = _steps(context.settings, result.cycle.id), time.monotonic()
            epochs = steps.get("validation_loss", 0)
            stall.check((result, steps), _describe_wait(prefix, seconds, epochs, started=result is not None))
            live.update(Spinner("dots", _line(seconds, result is not None, epochs=epochs)))
            time.sleep(0.2)
    console.print(_line(result.cycle.seconds, started=True, ended=True))
    return result


def _ended(result: CycleResult) -> bool:
    return result.cycle.finished_at is not None or result.cycle.verdict == "held"


def _describe_wait(prefix: str, seconds: dict[str, float], epochs: int, *, started: bool) -> str:
    if not started:
        return f"Airflow to notice the drop s3://…/{prefix}"
    last = next((s for s in reversed(STAGES) if s in seconds), "none")
    trained = f" ({epochs} epochs are logged)" if epochs else ""
    return f"stage {_next(seconds)}{trained} of the drop s3://…/{prefix}, the last stage done is {last}"


def _next(seconds: dict[str, float]) -> str:
    return next((s for s in STAGES if s not in seconds), "release")


def _steps(settings: Settings, cycle_id: str) -> dict[str, int]:
    """The last step of each metric of the cycle's training; empty if MLflow does not answer."""
    url = f"{settings.mlflow_url.rstrip('/')}/api/2.0/mlflow"
    with suppress(httpx.HTTPError, KeyError, ValueError, IndexError), httpx.Client(timeout=10) as http:
        name = {"experiment_name": settings.experiment}
        experiment = http.get(f"{url}/experiments/get-by-name", params=name).json()["experiment"]["experiment_id"]
        query = {"experiment_ids": [experiment], "filter": f"tags.cycle = '{cycle_id}'", "max_results": 1}
        run = http.post(f"{url}/runs/search", json=query).json()["runs"][0]
        return {metric["key"]: int(metric["step"]) for metric in run["data"].get("metrics", ())}
    return {}


def _read_cycle(engine: Engine, prefix: str) -> CycleResult | None:
    """The cycle of the drop uploaded to `prefix`, as it stands.

    A store whose listing changes by itself may cause an upload to be claimed twice; the second claim adds
    nothing. So this is the newest claim that was accepted, or else the newest.
    """
    claims = (
        select(drops.c.id)
        .join(cycles, cycles.c.drop_id == drops.c.id)
        .where(drops.c.prefix == prefix)
        .order_by(cycles.c.dataset_version.is_(None), drops.c.found_at.desc())
        .limit(1)
    )
    with transaction(engine) as connection:
        drop_row = connection.execute(select(drops).where(drops.c.id.in_(claims))).mappings().first()
        if drop_row is None:
            return None
        drop = DropRecord(**drop_row)
        cycle_row = connection.execute(select(cycles).where(cycles.c.drop_id == drop.id)).mappings().one()
        cycle = CycleRecord(**cycle_row)
        of_cycle = select(decisions).where(decisions.c.id == cycle.decision_id)
        decision_row = connection.execute(of_cycle).mappings().first()
        return CycleResult(drop, cycle, Decision.from_row(decision_row) if decision_row else None)


def _line(seconds: dict[str, float], started: bool, ended: bool = False, epochs: int = 0) -> Text:
    line = Text("  ")
    running = started and not ended
    for stage in STAGES:
        if stage in seconds:
            # Narrow consoles break the line between stages, not within one.
            line.append(f"✓\N{NO-BREAK SPACE}{stage}\N{NO-BREAK SPACE}", "green").append(
                f"{seconds[stage]:.1f}s", "dim"
            )
            line.append("  ")
        elif running:
            line.append(f"… {stage}" + (f" epoch {epochs}" if epochs and stage == "train" else ""), "yellow")
            running = False
    return line if started else Text("  waiting for Airflow to notice the drop", "dim")
