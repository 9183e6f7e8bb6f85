"""Rows of cycles: the drop, dataset version, model and decision of each cycle, and the duration of its stages."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Engine, func, select, update
from sqlalchemy.dialects.postgresql import insert

from ml.catalog.engine import transaction
from ml.catalog.tables import cycles, deployments
from ml.errors import NotFoundError

CORRECTION: Final = "correction"
"""Origin of a cycle that trains after a drop was reverted or labels were fixed in bulk."""


@dataclass(frozen=True, slots=True)
class CycleRecord:
    """A row of `cycles`.

    Attributes:
        origin: drop, correction, schedule, monitoring or manual.
        run_id: the MLflow run of the training.
        verdict: promote, reject, needs_person, held (its drop waits for a person), stopped or merged; None before
            there is one.
        seconds: duration of each stage that has ended, by its name.
        live_at: when the cycle's model became live.
    """

    id: str
    origin: str
    drop_id: str | None
    dataset_version: str | None
    run_id: str | None
    model_version: int | None
    decision_id: str | None
    verdict: str | None
    reason: str | None
    seconds: dict[str, float]
    started_at: datetime
    live_at: datetime | None
    finished_at: datetime | None


def open_cycle(engine: Engine, cycle_id: str, origin: str, drop_id: str | None = None) -> None:
    """Insert a cycle; a no-op if it exists. `origin`: drop, schedule, monitoring or manual."""
    with transaction(engine) as connection:
        connection.execute(insert(cycles).values(id=cycle_id, origin=origin, drop_id=drop_id).on_conflict_do_nothing())


def record(engine: Engine, cycle_id: str, **columns: Any) -> None:
    """Set columns of a cycle's row."""
    with transaction(engine) as connection:
        connection.execute(update(cycles).where(cycles.c.id == cycle_id).values(**columns))


@contextmanager
def stage(engine: Engine, cycle_id: str, name: str) -> Iterator[None]:
    """Add the block's wall-clock seconds to ``seconds[name]``; a stage that fails records nothing."""
    started = time.monotonic()
    yield
    add_seconds(engine, cycle_id, name, time.monotonic() - started)


def add_seconds(engine: Engine, cycle_id: str, name: str, seconds: float) -> None:
    with transaction(engine) as connection:
        row = connection.execute(select(cycles.c.seconds).where(cycles.c.id == cycle_id).with_for_update()).scalar()
        total = (row or {}).get(name, 0.0) + seconds
        connection.execute(
            update(cycles)
            .where(cycles.c.id == cycle_id)
            .values(seconds=cycles.c.seconds.op("||")(func.jsonb_build_object(name, round(total, 3))))
        )


def recent(engine: Engine, limit: int = 10) -> list[CycleRecord]:
    """The newest cycles first."""
    with transaction(engine) as connection:
        rows = connection.execute(select(cycles).order_by(cycles.c.started_at.desc()).limit(limit))
        return [CycleRecord(**row) for row in rows.mappings()]


def with_ended_deployment(engine: Engine) -> list[tuple[str, str]]:
    """Decision and cycle ids of open cycles whose deployment has ended."""
    query = (
        select(cycles.c.decision_id, cycles.c.id)
        .join(deployments, deployments.c.decision_id == cycles.c.decision_id)
        .where(cycles.c.finished_at.is_(None), deployments.c.status.not_in(("rolling", "trial")))
    )
    with transaction(engine) as connection:
        return [(decision, cycle) for decision, cycle in connection.execute(query).unique()]


def promoted_without_deployment(engine: Engine) -> list[tuple[str, str]]:
    """Decision and cycle ids of open cycles whose model is to be deployed, which nobody began."""
    deployed = select(deployments.c.id).where(deployments.c.decision_id == cycles.c.decision_id).exists()
    query = select(cycles.c.decision_id, cycles.c.id).where(
        cycles.c.finished_at.is_(None), cycles.c.verdict == "promote", cycles.c.decision_id.is_not(None), ~deployed
    )
    with transaction(engine) as connection:
        return [(decision, cycle) for decision, cycle in connection.execute(query)]


def of_model(engine: Engine, model_version: int) -> CycleRecord | None:
    """The cycle that trained the version, the oldest if several name it."""
    query = select(cycles).where(cycles.c.model_version == model_version).order_by(cycles.c.started_at).limit(1)
    with transaction(engine) as connection:
        row = connection.execute(query).mappings().first()
    return CycleRecord(**row) if row else None


def set_dataset_version(connection: Connection, cycle_id: str, version: str) -> None:
    """Set the cycle's dataset version within the caller's transaction."""
    connection.execute(update(cycles).where(cycles.c.id == cycle_id).values(dataset_version=version))


def get(engine: Engine, cycle_id: str) -> CycleRecord:
    """Raises NotFoundError for an unknown id."""
    with transaction(engine) as connection:
        row = connection.execute(select(cycles).where(cycles.c.id == cycle_id)).mappings().first()
    if row is None:
        raise NotFoundError(f"no cycle has the id `{cycle_id}`")
    return CycleRecord(**row)
