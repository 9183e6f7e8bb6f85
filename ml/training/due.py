"""What the train DAG should do now: level-triggered, so it asks the catalog and not the event."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select, update

from ml.catalog import cycles as diary
from ml.catalog.engine import transaction
from ml.catalog.tables import cycles, drift_reports
from ml.context import Context
from ml.datasets import versions

_UNTRAINED = (
    cycles.c.drop_id.is_not(None),
    cycles.c.dataset_version.is_not(None),
    cycles.c.finished_at.is_(None),
    cycles.c.verdict.is_distinct_from("needs_person"),  # trained and decided; it waits for a person only
)


@dataclass(frozen=True)
class Due:
    """A cycle to train for."""

    cycle_id: str
    dataset_version: str


def choose(ctx: Context, run_id: str, version_id: str | None = None) -> Due | None:
    """The cycle that a run should train for, or None if the newest dataset version is done.

    A drop's own cycle is taken up first; cycles of drops that a newer version contains are closed,
    pointing at it. A run by hand or on schedule, or after a request to retrain on what no model was trained on yet,
    opens a cycle of its own.

    Args:
        run_id: Airflow's; tells why it was started, and makes the choice the same on a retry.
        version_id: a person's wish.

    Raises:
        NotFoundError: `version_id` is no version.
    """
    version = versions.get(ctx, version_id) if version_id else versions.latest(ctx)
    if version is None:
        return None
    cycle_id = f"c-{run_id}"
    if version_id is None and not _is_open(ctx, cycle_id):
        with transaction(ctx.engine) as connection:
            if (waiting := _waiting(connection)) is not None:
                _close_superseded(connection, waiting)
                return Due(waiting, version.id)
            asked = not run_id.startswith("asset_triggered") or _retrain_asked(connection, version.id)
        if not asked:
            return None
    origins = {"scheduled": "schedule", "asset_triggered": "monitoring"}
    diary.open_cycle(ctx.engine, cycle_id, origins.get(run_id.partition("__")[0], "manual"))
    return Due(cycle_id, version.id)


def overdue(ctx: Context, minutes: float) -> bool:
    """Whether the newest dataset version has waited that long for its training to begin, or to come to an end."""
    with transaction(ctx.engine) as connection:
        return _waiting(connection, timedelta(minutes=minutes)) is not None


def give_up(ctx: Context, cycle_id: str, reason: str) -> None:
    """End a cycle that can never lead to a model; `reason` in words."""
    diary.record(ctx.engine, cycle_id, verdict="stopped", reason=reason, finished_at=func.now())


def last_began(connection: Connection) -> datetime | None:
    """When the newest cycle began that trains or will: a drop that was rejected begins none."""
    trains = cycles.c.drop_id.is_(None) | cycles.c.dataset_version.is_not(None)
    began: datetime | None = connection.execute(select(func.max(cycles.c.started_at)).where(trains)).scalar()
    return began


def _is_open(ctx: Context, cycle_id: str) -> bool:
    with transaction(ctx.engine) as connection:
        query = select(cycles.c.id).where(cycles.c.id == cycle_id, cycles.c.finished_at.is_(None))
        return connection.execute(query).first() is not None


def _waiting(connection: Connection, age: timedelta = timedelta()) -> str | None:
    """The newest unfinished cycle of a drop that is part of the data, if it began so long ago.

    The newest version contains that drop, though it need not be the one that the drop made: classes
    may have been renamed since, samples erased, segments compacted.
    """
    found: str | None = connection.execute(
        select(cycles.c.id)
        .where(*_UNTRAINED, cycles.c.started_at <= func.now() - age)
        .order_by(cycles.c.started_at.desc(), cycles.c.id)
        .limit(1)
    ).scalar()
    return found


def _close_superseded(connection: Connection, cycle_id: str) -> None:
    told = {"reason": f"trained together with {cycle_id}", "verdict": "merged", "finished_at": func.now()}
    connection.execute(update(cycles).where(cycles.c.id != cycle_id, *_UNTRAINED).values(told))


def trained(connection: Connection, version_id: str) -> bool:
    """Whether some cycle made a model of a dataset version: with the same data there would be the same model again."""
    made = select(cycles.c.id).where(cycles.c.dataset_version == version_id, cycles.c.model_version.is_not(None))
    return connection.execute(made.limit(1)).first() is not None


def _retrain_asked(connection: Connection, version_id: str) -> bool:
    """Monitoring asked after the last training began, and there is something to train on."""
    if trained(connection, version_id):
        return False
    asked = select(func.max(drift_reports.c.created_at)).where(drift_reports.c.retrain)
    newest = connection.execute(asked).scalar()
    began = last_began(connection)
    return newest is not None and (began is None or newest > began)
