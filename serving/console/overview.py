"""The console's data from the catalog: the last cycles, the replicas, the last day's predictions."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Engine, func, select

from ml.catalog import deployments
from ml.catalog.deployments import ReplicaRecord
from ml.catalog.engine import limit_statements, transaction
from ml.catalog.tables import cycles, dataset_versions, decisions, drops, prediction_hours
from ml.settings import Settings

CYCLES: Final = 12
STATEMENT_MILLISECONDS: Final = 1500


def read(engine: Engine, settings: Settings) -> dict[str, Any]:
    """Read everything the page needs from Postgres, with a short statement timeout.

    Raises:
        UnavailableError: Postgres does not answer, or not in time.
    """
    with transaction(engine) as connection:
        limit_statements(connection, STATEMENT_MILLISECONDS)
        held = connection.execute(select(func.count()).where(drops.c.status == "held")).scalar_one()
        latest_cycles = [_cycle(row, settings.drops_prefix) for row in connection.execute(_cycles()).mappings()]
    workers = [_replica(record) for record in deployments.live_replicas(engine, settings.heartbeat_seconds)]
    return {"cycles": latest_cycles, "replicas": workers, "predictions": _last_day(engine), "held_drops": held}


def _cycles() -> Any:
    columns = (
        cycles,
        drops.c.prefix,
        drops.c.status.label("drop_status"),
        drops.c.accepted,
        drops.c.quarantined,
        drops.c.report_key.label("data_docs"),
        drops.c.ready_at,
        dataset_versions.c.number.label("dataset_number"),
        decisions.c.statistics,
        decisions.c.report_key.label("decision_report"),
        decisions.c.champion_version,
    )
    source = (
        cycles.outerjoin(drops, cycles.c.drop_id == drops.c.id)
        .outerjoin(dataset_versions, cycles.c.dataset_version == dataset_versions.c.id)
        .outerjoin(decisions, cycles.c.decision_id == decisions.c.id)
    )
    return select(*columns).select_from(source).order_by(cycles.c.started_at.desc()).limit(CYCLES)


def _cycle(row: Mapping[Any, Any], drops_prefix: str) -> dict[str, Any]:
    statistics = row["statistics"] or {}
    return {
        "id": row["id"],
        "origin": row["origin"],
        "drop": row["prefix"].removeprefix(drops_prefix).rstrip("/") if row["prefix"] else None,
        "drop_id": row["drop_id"],
        "drop_status": row["drop_status"],
        "data_docs": row["data_docs"],
        "accepted": row["accepted"],
        "quarantined": row["quarantined"],
        "dataset_version": row["dataset_version"],
        "dataset_number": row["dataset_number"],
        "challenger": row["model_version"],
        "champion": row["champion_version"],
        "challenger_accuracy": _number(statistics.get("challenger_accuracy")),
        "champion_accuracy": _number(statistics.get("champion_accuracy")),
        "p_value": _number(statistics.get("p_value")),
        "holdout": _number(statistics.get("holdout")),
        "verdict": row["verdict"],
        "decision_report": row["decision_report"],
        "reason": row["reason"],
        "seconds": {name: s for name, s in (row["seconds"] or {}).items() if _number(s) is not None},
        "drop_to_live_seconds": _between(row["ready_at"], row["live_at"]),
        "started_at": row["started_at"],
        "finished_at": row["finished_at"],
    }


def _replica(record: ReplicaRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "host": record.host,
        "pid": record.pid,
        "started_at": record.started_at,
        "model_version": record.model_version,
        "deployment_id": record.deployment_id,
        "failed_deployment_id": record.failed_deployment_id,
        "error": record.error,
    }


def _last_day(engine: Engine) -> dict[str, Any]:
    """Predictions logged in the last 24 clock hours, the current hour last."""
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    hours = prediction_hours.c
    query = (
        select(hours.hour, func.sum(hours.answers), func.sum(hours.rejected))
        .where(hours.hour > now - timedelta(hours=24))
        .group_by(hours.hour)
    )
    with transaction(engine) as connection:
        limit_statements(connection, STATEMENT_MILLISECONDS)
        counts = {hour: (int(answers), int(rejected)) for hour, answers, rejected in connection.execute(query)}
    hourly = [counts.get(now - timedelta(hours=back), (0, 0)) for back in range(23, -1, -1)]
    answers = [count for count, _ in hourly]
    return {"last_24_hours": sum(answers), "hourly": answers, "rejected": sum(count for _, count in hourly)}


def _between(start: datetime | None, end: datetime | None) -> float | None:
    return round((end - start).total_seconds(), 1) if start and end else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
