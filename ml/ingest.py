"""The intake of one drop in a single process, for the CLI; Airflow runs the same stages as separate tasks."""

from collections.abc import Callable
from dataclasses import dataclass

from ml.catalog import drops
from ml.context import Context
from ml.datasets import relabels
from ml.datasets.accept import NOTHING_NEW, accept
from ml.errors import NotFoundError
from ml.intake.claim import claim
from ml.intake.inspect import chunk_count, inspect_chunk
from ml.intake.validate import validate
from ml.label_checks import report as label_report
from ml.label_checks import stage as label_checks

OnStage = Callable[[str, str], None]


@dataclass(frozen=True)
class IngestResult:
    """The outcome of an intake; `version` is None when nothing was added, for the given `reason`."""

    drop_id: str
    version: str | None
    reason: str | None


def ingest(ctx: Context, prefix: str, on_stage: OnStage | None = None) -> IngestResult:
    """Claim, inspect, validate, check labels, accept. `on_stage` is called with each stage's name and result.

    A drop that waits for a person gives no version, and the reason says how to approve it.
    """
    report = on_stage or _ignore
    drop_id = claim(ctx, prefix)
    if drop_id is None:
        return _earlier_result(ctx, prefix)
    report("claim", drop_id)
    rows = sum(inspect_chunk(ctx, drop_id, chunk) for chunk in range(chunk_count(ctx, drop_id)))
    report("inspect", f"{rows} images")
    verdict = validate(ctx, drop_id, relabels.preview)
    report("validate", f"{verdict.good} good, {verdict.bad} bad, {verdict.duplicates} known already")
    if not (verdict.accepted or verdict.held):
        return IngestResult(drop_id, None, verdict.reason)
    checked = label_checks.check(ctx, drop_id)
    if checked.report is not None:
        report("check labels", label_report.words(checked.report))
    if checked.held:
        return IngestResult(drop_id, None, drops.get(ctx.engine, drop_id).reason)
    version = accept(ctx, drop_id)
    if version is None and (drop := drops.get(ctx.engine, drop_id)).status == "held":
        return IngestResult(drop_id, None, drop.reason)
    report("accept", version[:12] if version else "nothing new")
    label_checks.open_questions(ctx, drop_id)
    return IngestResult(drop_id, version, None if version else NOTHING_NEW)


def _earlier_result(ctx: Context, prefix: str) -> IngestResult:
    drop = drops.newest_of(ctx.engine, prefix.rstrip("/") + "/")
    if drop is None:
        raise NotFoundError(f"no drop was ever found at `{prefix}`")
    return IngestResult(drop.id, None, drop.reason or "this content was accepted before")


def _ignore(stage: str, detail: str) -> None:
    del stage, detail
