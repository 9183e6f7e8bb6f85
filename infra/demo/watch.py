"""Waits for a cycle to end, showing each stage as its seconds arrive in the catalog."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import httpx
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text
from sqlalchemy import Engine, select

from ml.catalog.engine import transaction
from ml.catalog.tables import cycles, decisions, drops
from ml.context import Context
from ml.errors import UnavailableError
from ml.settings import Settings

STAGES = ("claim", "inspect", "validate", "accept", "train", "gate", "release")

PATIENCE: Final = 600.0
"""Seconds in which nothing at all may move. There is no bound on the whole: a busy machine is slow, not broken."""

_STEPS_EVERY = 3.0


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


class Patience:
    """Ends a wait when what it watches has stayed the same for too long."""

    def __init__(self, seconds: float = PATIENCE) -> None:
        self._seconds = seconds
        self._seen: object = None
        self._since = time.monotonic()

    def see(self, state: object, waiting_for: str) -> None:
        """Raises UnavailableError, with what was waited for, where `state` has not changed for so long."""
        now = time.monotonic()
        if state != self._seen:
            self._seen, self._since = state, now
        elif now - self._since > self._seconds:
            raise UnavailableError(f"waited for {waiting_for}; nothing has moved for {self._seconds:.0f} s")


def until(look: Callable[[], object], expected: Callable[[Any], bool], waiting_for: str) -> Any:
    """Look until what is seen is as expected, as long as it changes at least every `PATIENCE` seconds.

    Raises:
        UnavailableError: it stayed as it was; the message has what was seen last.
    """
    patience = Patience()
    while not expected(seen := look()):
        patience.see(seen, f"{waiting_for}, which is {seen}")
        time.sleep(0.2)
    return seen


def wait_for(context: Context, prefix: str, console: Console) -> Finished:
    """Block until the cycle of the newest drop at `prefix` has ended.

    Raises:
        UnavailableError: nothing moved for `PATIENCE` seconds: no stage ended, no epoch was logged; the message names
            the last stage that did end.
    """
    patience, asked = Patience(), 0.0
    steps: dict[str, int] = {}
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        while not ((found := _look(context.engine, prefix)) and found.cycle["finished_at"]):
            done = found.cycle["seconds"] if found else {}
            if found and _next(done) == "train" and time.monotonic() - asked > _STEPS_EVERY:
                steps, asked = _steps(context.settings, found.cycle["id"]), time.monotonic()
            epochs = steps.get("validation_loss", 0)
            patience.see((found, steps), _awaited(prefix, done, epochs, known=found is not None))
            live.update(Spinner("dots", _line(done, found is not None, epochs=epochs)))
            time.sleep(0.2)
    console.print(_line(found.cycle["seconds"], started=True, ended=True))
    return found


def _awaited(prefix: str, done: dict[str, float], epochs: int, *, known: bool) -> str:
    if not known:
        return f"Airflow to notice the drop s3://…/{prefix}"
    last = next((s for s in reversed(STAGES) if s in done), "none")
    trained = f" ({epochs} epochs are logged)" if epochs else ""
    return f"stage {_next(done)}{trained} of the drop s3://…/{prefix}, the last stage done is {last}"


def _next(done: dict[str, float]) -> str:
    return next((s for s in STAGES if s not in done), "release")


def _steps(settings: Settings, cycle_id: str) -> dict[str, int]:
    """The last step of each metric of the cycle's training; empty where MLflow, which may be busy, does not tell."""
    url = f"{settings.mlflow_url.rstrip('/')}/api/2.0/mlflow"
    with suppress(httpx.HTTPError, KeyError, ValueError, IndexError), httpx.LoadClient(timeout=10) as http:
        name = {"experiment_name": settings.experiment}
        experiment = http.get(f"{url}/experiments/get-by-name", params=name).json()["experiment"]["experiment_id"]
        wanted = {"experiment_ids": [experiment], "filter": f"tags.cycle = '{cycle_id}'", "max_results": 1}
        run = http.post(f"{url}/runs/search", json=wanted).json()["runs"][0]
        return {metric["key"]: int(metric["step"]) for metric in run["data"].get("metrics", ())}
    return {}


def _look(engine: Engine, prefix: str) -> Finished | None:
    """The trip of what was uploaded to `prefix`, as it stands.

    A store whose listing changes by itself makes one upload be claimed twice, and the second claim brings
    nothing new: what counts is the newest claim that became part of the data, or else the newest.
    """
    claims = (
        select(drops.c.id)
        .join(cycles, cycles.c.drop_id == drops.c.id)
        .where(drops.c.prefix == prefix)
        .order_by(cycles.c.dataset_version.is_(None), drops.c.found_at.desc())
        .limit(1)
    )
    with transaction(engine) as connection:
        drop = connection.execute(select(drops).where(drops.c.id.in_(claims))).mappings().first()
        if drop is None:
            return None
        cycle = connection.execute(select(cycles).where(cycles.c.drop_id == drop["id"])).mappings().one()
        decision = connection.execute(select(decisions).where(decisions.c.id == cycle["decision_id"])).mappings()
        found = decision.first()
        return Finished(dict(drop), dict(cycle), dict(found) if found else None)


def _line(done: dict[str, float], started: bool, ended: bool = False, epochs: int = 0) -> Text:
    line = Text("  ")
    running = started and not ended
    for stage in STAGES:
        if stage in done:
            # Narrow consoles break the line between stages, not within one.
            line.append(f"✓\N{NO-BREAK SPACE}{stage}\N{NO-BREAK SPACE}", "green").append(f"{done[stage]:.1f}s", "dim")
            line.append("  ")
        elif running:
            line.append(f"… {stage}" + (f" epoch {epochs}" if epochs and stage == "train" else ""), "yellow")
            running = False
    return line if started else Text("  waiting for Airflow to notice the drop", "dim")
