"""What a trial was: tallies of the replicas, disagreements of a shadow, what the prediction log says of both models."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.dialects.postgresql import insert

from ml.catalog.engine import transaction
from ml.catalog.tables import disagreements, feedback, predictions, replicas, trial_tallies


@dataclass(frozen=True)
class TrialAnswers:
    """One model's logged answers: how many, mean and variance of their confidence."""

    count: int
    confidence: float
    variance: float


def note(
    connection: Connection,
    deployment_id: int,
    replica: str,
    figures: Mapping[str, float],
    found: Sequence[Mapping[str, Any]],
) -> None:
    """Store what a replica counted so far, and the disagreements it found since it last did."""
    row = {"deployment_id": deployment_id, "replica": replica, "figures": dict(figures)}
    counted = insert(trial_tallies).values(row)
    counted = counted.on_conflict_do_update(
        index_elements=["deployment_id", "replica"], set_={"figures": row["figures"]}
    )
    connection.execute(counted)
    if found:
        rows = [{"deployment_id": deployment_id, **one} for one in found]
        connection.execute(insert(disagreements).on_conflict_do_nothing(), rows)


def tally(engine: Engine, deployment_id: int) -> dict[str, float]:
    """The sums over all replicas that ever counted."""
    query = select(trial_tallies.c.figures).where(trial_tallies.c.deployment_id == deployment_id)
    sums: defaultdict[str, float] = defaultdict(float)
    with transaction(engine) as connection:
        for figures in connection.execute(query).scalars():
            for name, amount in figures.items():
                sums[name] += amount
    return sums


def died_with(engine: Engine, deployment_id: int, heartbeat_seconds: float) -> int:
    """Replicas that held the candidate when they were last heard of, and did not sign off."""
    horizon = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, 5 * heartbeat_seconds)
    query = (
        select(func.count())
        .select_from(replicas)
        .where(replicas.c.candidate_deployment_id == deployment_id, replicas.c.heartbeat_at <= horizon)
    )
    with transaction(engine) as connection:
        return int(connection.execute(query).scalar_one())


def answers(engine: Engine, model_version: int, since: datetime) -> TrialAnswers:
    """Of the prediction log, since a moment."""
    mean, variance = func.avg(predictions.c.probability), func.var_samp(predictions.c.probability)
    query = select(func.count(), mean, variance).where(_by(model_version, since))
    with transaction(engine) as connection:
        count, average, spread = connection.execute(query).one()
    return TrialAnswers(count, average or 0.0, spread or 0.0)


def latency(engine: Engine, model_version: int, since: datetime, shares: Sequence[float]) -> list[float]:
    """The quantiles `shares` of the milliseconds that decoding and inference took.

    Who waits in line waits for both models alike, which would hide that one of them is slow.
    """
    own = predictions.c.decode_milliseconds + predictions.c.inference_milliseconds
    quantiles = [func.percentile_disc(share).within_group(own) for share in shares]
    with transaction(engine) as connection:
        row = connection.execute(select(*quantiles).where(_by(model_version, since))).one()
    return [0.0 if value is None else float(value) for value in row]


def judged(engine: Engine, model_version: int, since: datetime) -> tuple[int, int]:
    """TrialAnswers that feedback was given to, and how many of them were right."""
    right = func.count().filter(feedback.c.label == predictions.c.label)
    query = (
        select(func.count(), right)
        .select_from(predictions.join(feedback, feedback.c.prediction_id == predictions.c.id))
        .where(_by(model_version, since))
    )
    with transaction(engine) as connection:
        count, good = connection.execute(query).one()
    return count, good


def disputed(engine: Engine, deployment_id: int) -> tuple[int, int]:
    """Of the disagreements that feedback settled: how often the live model was right, how often the candidate."""
    live = func.count().filter(feedback.c.label == disagreements.c.live_label)
    candidate = func.count().filter(feedback.c.label == disagreements.c.candidate_label)
    query = (
        select(live, candidate)
        .select_from(disagreements.join(feedback, feedback.c.prediction_id == disagreements.c.prediction_id))
        .where(disagreements.c.deployment_id == deployment_id)
    )
    with transaction(engine) as connection:
        won, lost = connection.execute(query).one()
    return won, lost


def _by(model_version: int, since: datetime) -> Any:
    return (predictions.c.model_version == model_version) & (predictions.c.at >= since)
