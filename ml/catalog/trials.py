"""Data of a trial: counters of the replicas, disagreements of a shadow, and the logged predictions of both models."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.dialects.postgresql import insert

from ml.catalog.accuracy import counting, verdicts
from ml.catalog.engine import transaction
from ml.catalog.tables import disagreements, feedback, predictions, replicas, trial_tallies


@dataclass(frozen=True)
class ConfidenceSummary:
    """Number of logged predictions of a model, with mean and variance of their confidence."""

    count: int
    confidence: float
    variance: float


def record(
    connection: Connection,
    deployment_id: int,
    replica: str,
    figures: Mapping[str, float],
    new_disagreements: Sequence[Mapping[str, Any]],
) -> None:
    """Store a replica's counters so far, and its disagreements since the last call."""
    row = {"deployment_id": deployment_id, "replica": replica, "figures": dict(figures)}
    statement = insert(trial_tallies).values(row)
    statement = statement.on_conflict_do_update(
        index_elements=["deployment_id", "replica"], set_={"figures": row["figures"]}
    )
    connection.execute(statement)
    if new_disagreements:
        rows = [{"deployment_id": deployment_id, **disagreement} for disagreement in new_disagreements]
        connection.execute(insert(disagreements).on_conflict_do_nothing(), rows)


def totals(engine: Engine, deployment_id: int) -> dict[str, float]:
    """Sum of the counters of all replicas that took part in the trial."""
    query = select(trial_tallies.c.figures).where(trial_tallies.c.deployment_id == deployment_id)
    sums: defaultdict[str, float] = defaultdict(float)
    with transaction(engine) as connection:
        for figures in connection.execute(query).scalars():
            for name, amount in figures.items():
                sums[name] += amount
    return sums


def count_lost_replicas(engine: Engine, deployment_id: int, heartbeat_seconds: float) -> int:
    """Replicas whose heartbeat stopped, without sign-off, while they had the candidate loaded."""
    horizon = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, 5 * heartbeat_seconds)
    query = (
        select(func.count())
        .select_from(replicas)
        .where(replicas.c.candidate_deployment_id == deployment_id, replicas.c.heartbeat_at <= horizon)
    )
    with transaction(engine) as connection:
        return int(connection.execute(query).scalar_one())


def confidence_summary(engine: Engine, model_version: int, since: datetime) -> ConfidenceSummary:
    """Summary of the model's logged predictions since then."""
    mean, variance = func.avg(predictions.c.probability), func.var_samp(predictions.c.probability)
    query = select(func.count(), mean, variance).where(_predicted_by(model_version, since))
    with transaction(engine) as connection:
        count, average, spread = connection.execute(query).one()
    return ConfidenceSummary(count, average or 0.0, spread or 0.0)


def latency_quantiles(engine: Engine, model_version: int, since: datetime, shares: Sequence[float]) -> list[float]:
    """Quantiles of the milliseconds that decoding and inference took.

    Time in the queue is excluded: it is shared by both models and would hide that one of them is slow.
    """
    milliseconds = predictions.c.decode_milliseconds + predictions.c.inference_milliseconds
    quantiles = [func.percentile_disc(share).within_group(milliseconds) for share in shares]
    with transaction(engine) as connection:
        row = connection.execute(select(*quantiles).where(_predicted_by(model_version, since))).one()
    return [0.0 if value is None else float(value) for value in row]


def feedback_counts(engine: Engine, model_version: int, since: datetime) -> tuple[int, int]:
    """Number of predictions with feedback, and how many of them were right."""
    verdict = verdicts(counting().where(feedback.c.predicted_at >= since))
    right = func.count().filter(verdict.c.label == predictions.c.label)
    query = (
        select(func.count(), right)
        .select_from(predictions.join(verdict, verdict.c.prediction_id == predictions.c.id))
        .where(_predicted_by(model_version, since))
    )
    with transaction(engine) as connection:
        count, correct = connection.execute(query).one()
    return count, correct


def settled_disagreements(engine: Engine, deployment_id: int) -> tuple[int, int]:
    """Among disagreements with feedback, how often the live model was right and how often the candidate."""
    of_deployment = select(disagreements.c.prediction_id).where(disagreements.c.deployment_id == deployment_id)
    verdict = verdicts(counting().where(feedback.c.prediction_id.in_(of_deployment)))
    live = func.count().filter(verdict.c.label == disagreements.c.live_label)
    candidate = func.count().filter(verdict.c.label == disagreements.c.candidate_label)
    query = (
        select(live, candidate)
        .select_from(disagreements.join(verdict, verdict.c.prediction_id == disagreements.c.prediction_id))
        .where(disagreements.c.deployment_id == deployment_id)
    )
    with transaction(engine) as connection:
        live_right, candidate_right = connection.execute(query).one()
    return live_right, candidate_right


def _predicted_by(model_version: int, since: datetime) -> Any:
    return (predictions.c.model_version == model_version) & (predictions.c.at >= since)
