"""Judges the prediction log by `expectations/predictions.yml`: is what drift is looked for in sound at all?"""

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

_MOST: Final = 10_000  # rows judged, the newest
_COLUMNS: Final = ("model_version", "label", "probability", "milliseconds", "width", "height", "brightness")


@dataclass(frozen=True)
class LogVerdict:
    """`failures` in words; `news`: the look before found others or none, so people should hear of it."""

    predictions: int
    failures: tuple[str, ...]
    news: bool
    report_key: str | None


def judge(ctx: Context) -> LogVerdict:
    """Judge the newest answers of the last `monitor_window_hours` and keep what was found.

    Fewer than `monitor_min_predictions` are not judged.

    Raises:
        UnavailableError: the catalog or the bucket does not answer.
        InvalidInputError: the suite cannot be used.
    """
    now = datetime.now(UTC)
    rows = _rows(ctx, now - timedelta(hours=ctx.settings.monitor_window_hours))
    if len(rows) < ctx.settings.monitor_min_predictions:
        return LogVerdict(len(rows), (), news=False, report_key=None)
    verdict = suites.judge(ctx.settings.expectations / "predictions.yml", _frame(ctx, rows))
    failures = tuple(_in_words(f) for f in verdict.failed if f["severity"] == "critical")
    figures = {"predictions": len(rows), "from": rows[-1]["at"].isoformat(), "to": rows[0]["at"].isoformat()}
    before = validations.newest(ctx.engine, "predictions")
    page = _publish(ctx, now, verdict, failures, figures) if failures or verdict.warnings else None
    broken = sorted(f"{f['type']} {f['column']}" for f in verdict.failed if f["severity"] == "critical")
    validations.keep(
        ctx.engine,
        "predictions",
        now.isoformat(),
        failures=failures,
        warnings=verdict.warnings,
        figures=figures | {"broken": broken},
        report_key=page,
    )
    for words in (*failures, *verdict.warnings):
        log.warning("prediction log: %s", words)
    news = bool(broken) and (before is None or before["figures"].get("broken") != broken)
    return LogVerdict(len(rows), failures, news, page)


def _rows(ctx: Context, start: datetime) -> list[RowMapping]:
    columns = [predictions.c[name] for name in ("id", "at", "image_object", *_COLUMNS)]
    # Ids begin with the time; their index is there anyway.
    query = select(*columns).where(predictions.c.at >= start).order_by(predictions.c.id.desc()).limit(_MOST)
    with transaction(ctx.engine) as connection:
        return list(connection.execute(query).mappings())


def _frame(ctx: Context, rows: list[RowMapping]) -> Any:
    """The log's columns; `known_label` is empty for models other than the live one, `image_stored` unless all are."""
    import pandas as pd

    version, labels = _live(ctx)
    every = ctx.settings.log_images == "all"
    frame = pd.DataFrame(
        [
            {KEY: str(row["id"]), **{name: row[name] for name in _COLUMNS}}
            | {"known_label": row["label"] in labels if row["model_version"] == version else None}
            | {"image_stored": row["image_object"] is not None if every else None}
            for row in rows
        ]
    )
    flags = {"known_label": object, "image_stored": object}
    return frame.astype(flags)


def _live(ctx: Context) -> tuple[int | None, tuple[str, ...]]:
    live = deployments.live(ctx.engine)
    if live is None:
        return None, ()
    folder = ctx.settings.home / "bundles" / live["bundle_digest"]
    info = bundle.fetch(ctx.artifacts, live["bundle_prefix"], live["bundle_digest"], folder, names=())
    return live["model_version"], info.labels


def _in_words(failed: dict[str, Any]) -> str:
    found, keys = failed["found"][0] if failed["found"] else failed["reason"], failed["keys"]
    return f"{found} ({len(keys)} answers, such as {keys[0]})" if keys else str(found)


def _publish(
    ctx: Context, now: datetime, verdict: SuiteResult, failures: tuple[str, ...], figures: dict[str, Any]
) -> str:
    subject = f"{now:%Y-%m-%dT%H%M%SZ}"
    page = data_docs.key(subject, "predictions")
    words = "; ".join(failures or verdict.warnings)
    outcome = ("bad", words) if failures else ("warn", words)
    title = f"Prediction log, {now:%Y-%m-%d %H:%M} UTC"
    rows: dict[str, list[str]] = {}
    for failed in verdict.failed:
        for key in failed["keys"]:
            rows.setdefault(key, []).append(failed["reason"])
    verdicts = [("Each answer, and all of them", verdict)]
    data_docs.publish(
        ctx, page, data_docs.page(title, subject, outcome, verdicts, figures, list(rows.items()), ("answers", "Answer"))
    )
    return page
