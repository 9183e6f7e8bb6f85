"""Which cycle the train DAG should train for. Level-triggered: read from the catalog, not from the event."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select, update

from ml.catalog import cycles
from ml.catalog.engine import transaction
from ml.catalog.tables import cycles as cycles_table
from ml.catalog.tables import drift_reports
from ml.context import Context
from ml.datasets import versions

_UNTRAINED = (
    cycles_table.c.drop_id.is_not(None) | (cycles_table.c.origin == cycles.CORRECTION),
    cycles_table.c.dataset_version.is_not(None),
    cycles_table.c.finished_at.is_(None),
    cycles_table.c.verdict.is_distinct_from("needs_person"),  # trained and decided; only the approval is open
)


@dataclass(frozen=True)
class DueCycle:
    """A cycle that is due for training, and the dataset version to train on."""

    cycle_id: str
    dataset_version: str


def choose(ctx: Context, run_id: str, version_id: str | None = None) -> DueCycle | None:
    """Return the cycle that a run should train for, or None if the newest dataset version needs no training.

    An unfinished cycle of a drop or of a correction comes first; older ones whose drops the same version contains are
    closed with a reference to it. A manual or scheduled run, or a retrain request for a version that no model was
    trained on, opens a new cycle.

    Args:
        run_id: Airflow's run id; shows what triggered the run and makes a retry choose the same cycle.
        version_id: a dataset version chosen by the user; None for the newest.

    Raises:
        NotFoundError: `version_id` is no version.
    """
    version = versions.get(ctx, version_id) if version_id else versions.latest(ctx)
    if version is None:
        return None
    cycle_id = f"c-{run_id}"
    if version_id is None and not _is_open(ctx, cycle_id):
        with transaction(ctx.engine) as connection:
            if (waiting := _untrained_cycle(connection)) is not None:
                _close_superseded(connection, waiting)
                return DueCycle(waiting, version.id)
            should_train = not run_id.startswith("asset_triggered") or _retrain_requested(connection, version.id)
        if not should_train:
            return None
    origins = {"scheduled": "schedule", "asset_triggered": "monitoring"}
    cycles.open_cycle(ctx.engine, cycle_id, origins.get(run_id.partition("__")[0], "manual"))
    return DueCycle(cycle_id, version.id)


def overdue(ctx: Context, minutes: float) -> bool:
    """Whether a cycle has been waiting that long for its training to start or to finish."""
    with transaction(ctx.engine) as connection:
        return _untrained_cycle(connection, timedelta(minutes=minutes)) is not None


def stop_cycle(ctx: Context, cycle_id: str, reason: str) -> None:
    """Finish a cycle that cannot produce a model, and record the reason."""
    cycles.record(ctx.engine, cycle_id, verdict="stopped", reason=reason, finished_at=func.now())


def last_training_start(connection: Connection) -> datetime | None:
    """Start time of the newest cycle that trains or will train; cycles of rejected drops do not count."""
    trains = cycles_table.c.drop_id.is_(None) | cycles_table.c.dataset_version.is_not(None)
    began: datetime | None = connection.execute(select(func.max(cycles_table.c.started_at)).where(trains)).scalar()
    return began


def _is_open(ctx: Context, cycle_id: str) -> bool:
    with transaction(ctx.engine) as connection:
        query = select(cycles_table.c.id).where(cycles_table.c.id == cycle_id, cycles_table.c.finished_at.is_(None))
        return connection.execute(query).first() is not None


def _untrained_cycle(connection: Connection, age: timedelta = timedelta()) -> str | None:
    """The newest unfinished cycle of an accepted drop or a correction that started at least `age` ago.

    The newest version contains that drop but need not be the version the drop created: classes may have been
    renamed since, samples erased, segments compacted.
    """
    cycle_id: str | None = connection.execute(
        select(cycles_table.c.id)
        .where(*_UNTRAINED, cycles_table.c.started_at <= func.now() - age)
        .order_by(cycles_table.c.started_at.desc(), cycles_table.c.id)
        .limit(1)
    ).scalar()
    return cycle_id


def _close_superseded(connection: Connection, cycle_id: str) -> None:
    values = {"reason": f"trained together with {cycle_id}", "verdict": "merged", "finished_at": func.now()}
    connection.execute(update(cycles_table).where(cycles_table.c.id != cycle_id, *_UNTRAINED).values(values))


def is_trained(connection: Connection, version_id: str) -> bool:
    """Whether a model was trained on this dataset version; training again would give the same model."""
    query = select(cycles_table.c.id).where(
        cycles_table.c.dataset_version == version_id, cycles_table.c.model_version.is_not(None)
    )
    return connection.execute(query.limit(1)).first() is not None


def _retrain_requested(connection: Connection, version_id: str) -> bool:
    """Whether monitoring requested a retrain since the last training started, on a version not trained on yet."""
    if is_trained(connection, version_id):
        return False
    query = select(func.max(drift_reports.c.created_at)).where(drift_reports.c.retrain)
    newest = connection.execute(query).scalar()
    last_start = last_training_start(connection)
    return newest is not None and (last_start is None or newest > last_start)
