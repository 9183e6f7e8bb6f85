"""Compares the answers of a window with what the champion was trained on; may ask for retraining."""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.postgresql import insert

from ml.catalog import accuracy, deployments
from ml.catalog.engine import transaction
from ml.catalog.tables import drift_reports, prediction_hours, predictions
from ml.context import Context
from ml.datasets import versions
from ml.models import bundle
from ml.models.bundle import BundleInfo
from ml.monitoring import statistics
from ml.training import due

log = logging.getLogger(__name__)

_CONFIDENCES = 50_000


@dataclass(frozen=True)
class DriftReport:
    """A row of `drift_reports`.

    Attributes:
        retrain: ask for a training.
        reasons: what has shifted, in words; empty if nothing has, or a training was begun for it.
        labels_wanted: something has shifted, no data came that a training could learn it from, and the report before
            did not say so.
    """

    id: int
    model_version: int | None
    predictions: int
    statistics: dict[str, Any]
    retrain: bool
    reasons: tuple[str, ...]
    labels_wanted: bool


def observe(ctx: Context) -> DriftReport:
    """Look at the live model's answers in the last `monitor_window_hours`; keep what was found.

    Retraining is asked for until one begins, and then no more for this model; and only while there are data that no
    model was trained on: the same data would give the same model again. Asking is what this returns, so one that is
    killed asks next time.

    Raises:
        UnavailableError: the catalog or the bucket does not answer.
    """
    end = datetime.now(UTC)
    start = end - timedelta(hours=ctx.settings.monitor_window_hours)
    live = deployments.live(ctx.engine)
    figures: dict[str, Any] = {}
    count, reasons, newest, fresh, news = 0, list[str](), versions.latest(ctx), False, False
    if live is not None:
        info = bundle.fetch(
            ctx.artifacts,
            live["bundle_prefix"],
            live["bundle_digest"],
            ctx.settings.home / "bundles" / live["bundle_digest"],
            names=(),
        )
        with transaction(ctx.engine) as connection:
            count, figures = _figures(connection, live["model_version"], start, info)
            answered = _answered_before(connection, live["model_version"])
            fresh = newest is not None and not due.trained(connection, newest.id)
            news = not _reasons_before(connection, live["model_version"])
        if count >= ctx.settings.monitor_min_predictions and not answered:
            reasons = _reasons(figures, ctx.settings.drift_threshold)
    version = live["model_version"] if live else None
    row = {
        "model_version": version,
        "window_start": start,
        "window_end": end,
        "predictions": count,
        "statistics": figures,
        "retrain": bool(reasons) and fresh,
        "reasons": reasons,
    }
    with transaction(ctx.engine) as connection:
        made = connection.execute(insert(drift_reports).values(row).returning(drift_reports.c.id)).scalar_one()
    log.info("drift report %s: %d predictions of version %s, %s", made, count, version, figures)
    wanted = bool(reasons) and not fresh and news
    return DriftReport(made, version, count, figures, bool(reasons) and fresh, tuple(reasons), wanted)


def _figures(connection: Connection, version: int, start: datetime, info: BundleInfo) -> tuple[int, dict[str, Any]]:
    """Counts are of whole hours, the first being the one that `start` lies in."""
    hours = prediction_hours.c
    in_hours = (hours.model_version == version) & (hours.hour >= start.replace(minute=0, second=0, microsecond=0))
    counted = connection.execute(
        select(hours.label, func.sum(hours.answers), func.sum(hours.brightness), func.sum(hours.rejected))
        .where(in_hours)
        .group_by(hours.label)
    ).all()
    counts = {label: int(answers) for label, answers, _, _ in counted}
    within = (predictions.c.model_version == version) & (predictions.c.at >= start)
    confidences = connection.execute(
        select(predictions.c.probability).where(within).order_by(predictions.c.at.desc()).limit(_CONFIDENCES)
    ).scalars()
    told = {row["model_version"]: row for row in accuracy.by_version(connection, start)}.get(version)
    total, judged = sum(counts.values()), list(confidences)
    brightness = sum(row[2] for row in counted) / total if total else None
    rejected = int(sum(row[3] for row in counted))
    return total, {
        "classes": counts,
        "class_shift": round(statistics.class_shift(info.class_shares, counts), 4) if counts else 0.0,
        "class_noise": round(statistics.noise(len({*info.class_shares, *counts}), total), 4),
        "confidence_shift": round(statistics.confidence_shift(info.confidence_deciles, judged), 4),
        "confidence_noise": round(statistics.noise(len(info.confidence_deciles) + 1, len(judged)), 4),
        "brightness": None if brightness is None else round(brightness, 4),
        "rejected": round(rejected / total, 4) if total else 0.0,
        "feedback": told["judged"] if told else 0,
        "live_accuracy": told["accuracy"] if told else None,
    }


def _answered_before(connection: Connection, version: int) -> bool:
    """Whether a training began after one was asked for this model."""
    asked = select(func.min(drift_reports.c.created_at)).where(
        drift_reports.c.model_version == version, drift_reports.c.retrain
    )
    first, began = connection.execute(asked).scalar(), due.last_began(connection)
    return first is not None and began is not None and began > first


def _reasons_before(connection: Connection, version: int) -> bool:
    """Whether the newest report on this model had reasons."""
    newest = select(drift_reports.c.reasons).where(drift_reports.c.model_version == version)
    return bool(connection.execute(newest.order_by(drift_reports.c.id.desc()).limit(1)).scalar())


def _reasons(figures: dict[str, Any], threshold: float) -> list[str]:
    found = []
    for name, words in (("class", "answered classes"), ("confidence", "confidences")):
        shift, limit = figures[f"{name}_shift"], max(threshold, figures[f"{name}_noise"])
        if shift > limit:
            found.append(f"the {words} have shifted: population stability index {shift:.2f}, {limit:.2f} is the limit")
    return found
