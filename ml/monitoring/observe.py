"""Drift monitoring: compares recent predictions with the champion's training data; may request retraining."""

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
        retrain: whether retraining is requested.
        reasons: descriptions of the drift; empty if there is none, or if a training was started since.
        labels_wanted: there is drift but no new data to train on, and the previous report had no reasons.
    """

    id: int
    model_version: int | None
    predictions: int
    statistics: dict[str, Any]
    retrain: bool
    reasons: tuple[str, ...]
    labels_wanted: bool


def observe(ctx: Context) -> DriftReport:
    """Compute drift of the live model's predictions in the last `monitor_window_hours` and store a report.

    Retraining is requested until a training starts, then no more for this model, and only while the newest dataset
    version is untrained: the same data would give the same model. The request is the return value, so after a crash
    the next run repeats it.

    Raises:
        UnavailableError: the catalog or the bucket does not answer.
    """
    end = datetime.now(UTC)
    start = end - timedelta(hours=ctx.settings.monitor_window_hours)
    live = deployments.live(ctx.engine)
    figures: dict[str, Any] = {}
    count, reasons, newest, has_new_data, first_report = 0, list[str](), versions.latest(ctx), False, False
    if live is not None:
        info = bundle.fetch(
            ctx.artifacts,
            live.bundle_prefix,
            live.bundle_digest,
            bundle.cache_folder(ctx.settings.home) / live.bundle_digest,
            names=(),
        )
        with transaction(ctx.engine) as connection:
            count, figures = _figures(connection, live.model_version, start, info)
            training_started = _training_started(connection, live.model_version)
            has_new_data = newest is not None and not due.is_trained(connection, newest.id)
            first_report = not _had_reasons(connection, live.model_version)
        if count >= ctx.settings.monitor_min_predictions and not training_started:
            reasons = _reasons(figures, ctx.settings.drift_threshold)
    version = live.model_version if live else None
    row = {
        "model_version": version,
        "window_start": start,
        "window_end": end,
        "predictions": count,
        "statistics": figures,
        "retrain": bool(reasons) and has_new_data,
        "reasons": reasons,
    }
    with transaction(ctx.engine) as connection:
        report_id = connection.execute(insert(drift_reports).values(row).returning(drift_reports.c.id)).scalar_one()
    log.info("drift report %s: %d predictions of version %s, %s", report_id, count, version, figures)
    labels_wanted = bool(reasons) and not has_new_data and first_report
    return DriftReport(
        report_id, version, count, figures, bool(reasons) and has_new_data, tuple(reasons), labels_wanted
    )


def _figures(connection: Connection, version: int, start: datetime, info: BundleInfo) -> tuple[int, dict[str, Any]]:
    """Number of predictions and drift statistics; counts are of whole hours, from the hour of `start`."""
    hours = prediction_hours.c
    in_hours = (hours.model_version == version) & (hours.hour >= start.replace(minute=0, second=0, microsecond=0))
    rows = connection.execute(
        select(hours.label, func.sum(hours.answers), func.sum(hours.brightness), func.sum(hours.rejected))
        .where(in_hours)
        .group_by(hours.label)
    ).all()
    counts = {label: int(answers) for label, answers, _, _ in rows}
    in_window = (predictions.c.model_version == version) & (predictions.c.at >= start)
    confidences = connection.execute(
        select(predictions.c.probability).where(in_window).order_by(predictions.c.at.desc()).limit(_CONFIDENCES)
    ).scalars()
    live_accuracy = {record.model_version: record for record in accuracy.by_version(connection, start)}.get(version)
    total, probabilities = sum(counts.values()), list(confidences)
    brightness = sum(row[2] for row in rows) / total if total else None
    rejected = int(sum(row[3] for row in rows))
    return total, {
        "classes": counts,
        "class_shift": round(statistics.class_shift(info.class_shares, counts), 4) if counts else 0.0,
        "class_noise": round(statistics.noise(len({*info.class_shares, *counts}), total), 4),
        "confidence_shift": round(statistics.confidence_shift(info.confidence_deciles, probabilities), 4),
        "confidence_noise": round(statistics.noise(len(info.confidence_deciles) + 1, len(probabilities)), 4),
        "brightness": None if brightness is None else round(brightness, 4),
        "rejected": round(rejected / total, 4) if total else 0.0,
        "feedback": live_accuracy.judged if live_accuracy else 0,
        "live_accuracy": live_accuracy.accuracy if live_accuracy else None,
    }


def _training_started(connection: Connection, version: int) -> bool:
    """Whether a training started after one was requested for this model."""
    query = select(func.min(drift_reports.c.created_at)).where(
        drift_reports.c.model_version == version, drift_reports.c.retrain
    )
    first, began = connection.execute(query).scalar(), due.last_training_start(connection)
    return first is not None and began is not None and began > first


def _had_reasons(connection: Connection, version: int) -> bool:
    """Whether the previous report on this model had reasons."""
    newest = select(drift_reports.c.reasons).where(drift_reports.c.model_version == version)
    return bool(connection.execute(newest.order_by(drift_reports.c.id.desc()).limit(1)).scalar())


def _reasons(figures: dict[str, Any], threshold: float) -> list[str]:
    reasons = []
    for name, measure in (("class", "answered classes"), ("confidence", "confidences")):
        shift, limit = figures[f"{name}_shift"], max(threshold, figures[f"{name}_noise"])
        if shift > limit:
            reasons.append(
                f"the {measure} have shifted: population stability index {shift:.2f}, {limit:.2f} is the limit"
            )
    return reasons
