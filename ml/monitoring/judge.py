"""Validates the prediction log with `expectations/predictions.yml`, so that drift is computed on valid data."""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import RowMapping, select

from ml.catalog import deployments, validations
from ml.catalog.engine import transaction
from ml.catalog.tables import predictions
from ml.context import Context
from ml.models import bundle
from ml.validation import data_docs, suites
from ml.validation.suites import KEY, SuiteResult

log = logging.getLogger(__name__)

_MAX_ROWS: Final = 10_000  # newest rows to validate
_COLUMNS: Final = ("model_version", "label", "probability", "milliseconds", "width", "height", "brightness")


@dataclass(frozen=True)
class LogValidation:
    """The result of a validation.

    Attributes:
        failures: messages of failed critical expectations.
        news: whether they differ from those of the previous validation, so that an alert is due.
    """

    predictions: int
    failures: tuple[str, ...]
    news: bool
    report_key: str | None


def validate_predictions(ctx: Context) -> LogValidation:
    """Validate the newest predictions of the last `monitor_window_hours` and store the result.

    Skipped if there are fewer than `monitor_min_predictions`.

    Raises:
        UnavailableError: the catalog or the bucket does not answer.
        InvalidInputError: the suite cannot be used.
    """
    now = datetime.now(UTC)
    rows = _rows(ctx, now - timedelta(hours=ctx.settings.monitor_window_hours))
    if len(rows) < ctx.settings.monitor_min_predictions:
        return LogValidation(len(rows), (), news=False, report_key=None)
    verdict = suites.validate(ctx.settings.expectations / "predictions.yml", _frame(ctx, rows))
    failures = tuple(_describe(f) for f in verdict.failed if f["severity"] == "critical")
    figures = {"predictions": len(rows), "from": rows[-1]["at"].isoformat(), "to": rows[0]["at"].isoformat()}
    before = validations.newest(ctx.engine, "predictions")
    page = _publish(ctx, now, verdict, failures, figures) if failures or verdict.warnings else None
    broken = sorted(f"{f['type']} {f['column']}" for f in verdict.failed if f["severity"] == "critical")
    validations.record(
        ctx.engine,
        "predictions",
        now.isoformat(),
        failures=failures,
        warnings=verdict.warnings,
        figures=figures | {"broken": broken},
        report_key=page,
    )
    for message in (*failures, *verdict.warnings):
        log.warning("prediction log: %s", message)
    news = bool(broken) and (before is None or before.figures.get("broken") != broken)
    return LogValidation(len(rows), failures, news, page)


def _rows(ctx: Context, start: datetime) -> list[RowMapping]:
    columns = [predictions.c[name] for name in ("id", "at", "image_object", *_COLUMNS)]
    # Ids are ordered by time, and their index exists already.
    query = select(*columns).where(predictions.c.at >= start).order_by(predictions.c.id.desc()).limit(_MAX_ROWS)
    with transaction(ctx.engine) as connection:
        return list(connection.execute(query).mappings())


def _frame(ctx: Context, rows: list[RowMapping]) -> Any:
    """The log's columns; `known_label` is empty for models other than the live one, `image_stored` unless all are."""
    import pandas as pd

    version, labels = _live(ctx)
    all_stored = ctx.settings.log_images == "all"
    frame = pd.DataFrame(
        [
            {KEY: str(row["id"]), **{name: row[name] for name in _COLUMNS}}
            | {"known_label": row["label"] in labels if row["model_version"] == version else None}
            | {"image_stored": row["image_object"] is not None if all_stored else None}
            for row in rows
        ]
    )
    flags = {"known_label": object, "image_stored": object}
    return frame.astype(flags)


def _live(ctx: Context) -> tuple[int | None, tuple[str, ...]]:
    live = deployments.live(ctx.engine)
    if live is None:
        return None, ()
    folder = bundle.cache_folder(ctx.settings.home) / live.bundle_digest
    info = bundle.fetch(ctx.artifacts, live.bundle_prefix, live.bundle_digest, folder, names=())
    return live.model_version, info.labels


def _describe(failed: dict[str, Any]) -> str:
    message, keys = failed["found"][0] if failed["found"] else failed["reason"], failed["keys"]
    return f"{message} ({len(keys)} answers, such as {keys[0]})" if keys else str(message)


def _publish(
    ctx: Context, now: datetime, verdict: SuiteResult, failures: tuple[str, ...], figures: dict[str, Any]
) -> str:
    subject = f"{now:%Y-%m-%dT%H%M%SZ}"
    page = data_docs.key(subject, "predictions")
    summary = "; ".join(failures or verdict.warnings)
    outcome = ("bad", summary) if failures else ("warn", summary)
    title = f"Prediction log, {now:%Y-%m-%d %H:%M} UTC"
    rows: dict[str, list[str]] = {}
    for failed in verdict.failed:
        for key in failed["keys"]:
            rows.setdefault(key, []).append(failed["reason"])
    verdicts = [("Each answer, and all of them", verdict)]
    data_docs.publish(
        ctx,
        page,
        data_docs.render(title, subject, outcome, verdicts, figures, list(rows.items()), ("answers", "Answer")),
    )
    return page
