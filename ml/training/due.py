"""What the train DAG should do now: level-triggered, so it asks the catalog and not the event."""

from dataclasses import dataclass

from sqlalchemy import Connection, func, select, update

from ml.catalog import cycles as diary
from ml.catalog.engine import transaction
from ml.catalog.tables import cycles, drift_reports
from ml.context import Context
from ml.datasets import versions


@dataclass(frozen=True)
class Due:
    """A cycle to train for."""

    cycle_id: str
    dataset_version: str


def choose(ctx: Context, run_id: str, version_id: str | None = None) -> Due | None:
    """The cycle that a run should train for, or None if the newest dataset version is done.

    A drop's own cycle is taken up first; cycles of drops that a newer version contains are closed,
    pointing at it. A run by hand or on schedule, or after a request to retrain, opens a cycle of its own.

    Args:
        run_id: Airflow's; tells why it was started, and makes the choice the same on a retry.
        version_id: a person's wish.

    Raises:
        NotFoundError: `version_id` is no version.
    """
    version = versions.get(ctx, version_id) if version_id else versions.latest(ctx)
    if version is None:
        return None
    if version_id is None:
        with transaction(ctx.engine) as connection:
            if (waiting := _waiting(connection, version.id)) is not None:
                _close_superseded(connection, version, waiting)
                return Due(waiting, version.id)
            asked = not run_id.startswith("asset_triggered") or _retrain_asked(connection)
        if not asked:
            return None
    origin = "schedule" if run_id.startswith("scheduled") else "manual"
    cycle_id = f"c-{run_id}"
    diary.open_cycle(ctx.engine, cycle_id, origin)
    return Due(cycle_id, version.id)


def _waiting(connection: Connection, version_id: str) -> str | None:
    """The unfinished cycle of the drop that made this version."""
    found: str | None = connection.execute(
        select(cycles.c.id).where(
            cycles.c.dataset_version == version_id, cycles.c.finished_at.is_(None), cycles.c.drop_id.is_not(None)
        )
    ).scalar()
    return found


def _close_superseded(connection: Connection, version: versions.DatasetVersion, cycle_id: str) -> None:
    connection.execute(
        update(cycles)
        .where(
            cycles.c.id != cycle_id,
            cycles.c.drop_id.is_not(None),
            cycles.c.dataset_version.is_not(None),
            cycles.c.dataset_version != version.id,
            cycles.c.finished_at.is_(None),
        )
        .values(reason=f"trained together with {cycle_id}", verdict="merged", finished_at=func.now())
    )


def _retrain_asked(connection: Connection) -> bool:
    """Monitoring asked after the last cycle began."""
    asked = select(func.max(drift_reports.c.created_at)).where(drift_reports.c.retrain)
    last = select(func.max(cycles.c.started_at))
    newest = connection.execute(asked).scalar()
    began = connection.execute(last).scalar()
    return newest is not None and (began is None or newest > began)
