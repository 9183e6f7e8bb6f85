"""Validates a drop row by row (bad rows are quarantined) and as a whole (a bad drop is rejected)."""

import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any

import orjson

from ml.catalog import cycles, drops, validations
from ml.catalog.drops import DropRecord
from ml.context import Context
from ml.errors import IntegrityError
from ml.intake import entries, held, history, quarantine, relabels, row_verdicts
from ml.intake.claim import reject
from ml.intake.judgement import DropVerdict, evaluate
from ml.intake.relabels import CountRelabels
from ml.validation import data_docs
from ml.validation.suites import KEY, SuiteResult

log = logging.getLogger(__name__)

_POSITION = ("size", "archive", "offset", "span")


@dataclass(frozen=True)
class Validation:
    """The outcome of a drop's validation; `good`, `duplicates`, `bad` count its images.

    Attributes:
        accepted: nothing speaks against it so far.
        held: it waits for a person.
        reason: why it was rejected or waits.
    """

    drop_id: str
    accepted: bool
    held: bool
    reason: str | None
    images: int
    good: int
    duplicates: int
    bad: int


def validate(ctx: Context, drop_id: str, count_relabels: CountRelabels = relabels.not_counted) -> Validation:
    """Validate every row and the drop, store the report, reject the drop if it fails, and hold it if it must be seen.

    Idempotent; the status of a finished drop does not change.

    Args:
        ctx: the context.
        drop_id: the drop.
        count_relabels: counts what the drop would change of the labels of stored samples, for the report.

    Raises:
        NotFoundError: a chunk was not inspected.
        UnavailableError: a server does not answer.
        InvalidInputError: a suite in the expectations folder cannot be used.
    """
    drop = drops.get(ctx.engine, drop_id)
    if drop.status != "claimed":
        return _from_record(drop)
    head = entries.head(ctx, drop_id)
    if problem := head.problem:  # the claim was killed before it rejected the drop
        reject(ctx, drop_id, problem)
        return _from_record(drops.get(ctx.engine, drop_id))
    with cycles.stage(ctx.engine, drop_id, "validate"):
        verdict = evaluate(ctx, drop_id, history.read(ctx.engine, drop.prefix), count_relabels)
        row_verdicts.save(ctx, drop_id, verdict.rows)
        _save_report(ctx, drop, verdict)
    rows, reason = verdict.rows, "; ".join(verdict.rejection_reasons) or None
    good, duplicates, bad = (rows.count(name) for name in ("good", "duplicate", "bad"))
    counts = {"images": len(rows), "quarantined": bad, "duplicates": duplicates}
    if reason:
        quarantined = quarantine.copy_images(
            ctx, drop.prefix, drop_id, rows.rows("bad", KEY, "label", "sha256", *_POSITION)
        )
        reject(ctx, drop_id, reason, quarantined, report_key=data_docs.key(drop_id), format=head.format, **counts)
    else:
        drops.describe(ctx.engine, drop_id, report_key=data_docs.key(drop_id), format=head.format, **counts)
        if held.hold(ctx, drop_id, verdict.findings):
            return _from_record(drops.get(ctx.engine, drop_id))
    return Validation(
        drop_id,
        accepted=reason is None,
        held=False,
        reason=reason,
        images=len(rows),
        good=good,
        duplicates=duplicates,
        bad=bad,
    )


def report_key(drop_id: str) -> str:
    return f"drops/{drop_id}/report.json"


def _from_record(drop: DropRecord) -> Validation:
    return Validation(
        drop.id,
        drop.status == "accepted",
        drop.status == "held",
        drop.reason,
        drop.images,
        drop.accepted,
        drop.duplicates,
        drop.quarantined,
    )


def _save_report(ctx: Context, drop: DropRecord, verdict: DropVerdict) -> None:
    """Store the JSON report, the Data Docs page, and the row that later drops are compared with."""
    drop_id, page = drop.id, data_docs.key(drop.id)
    quarantined = [(r[KEY], r["reasons"]) for r in verdict.rows.rows("bad", KEY)]
    ctx.store.put(report_key(drop_id), _report(drop_id, verdict, dict(quarantined)), "application/json")
    data_docs.publish(ctx, page, _page(drop, verdict, quarantined))
    validations.record(
        ctx.engine,
        "drop",
        drop_id,
        failures=verdict.rejection_reasons,
        warnings=verdict.warnings,
        figures=verdict.figures,
        report_key=page,
    )
    log.info("drop %s: data docs at %s", drop_id, data_docs.url(ctx.settings, page))


def _report(drop_id: str, verdict: DropVerdict, quarantined: dict[str, list[str]]) -> bytes:
    body = {
        "drop_id": drop_id,
        "figures": verdict.figures,
        "classes": Counter(r["label"] for r in verdict.rows.rows("good", "label")),
        "rejected_because": verdict.rejection_reasons,
        "findings": [finding.as_json() for finding in verdict.findings],
        "warnings": verdict.warnings,
        "quarantined": quarantined,
        "failed_expectations": [*verdict.drop_result.failed, *verdict.images_result.failed],
        "results": {
            name: _outcomes(v) for name, v in (("drop", verdict.drop_result), ("images", verdict.images_result))
        },
    }
    try:
        return orjson.dumps(body, option=orjson.OPT_INDENT_2, default=str)
    except orjson.JSONEncodeError as error:
        raise IntegrityError(f"the report of drop {drop_id} cannot be written as JSON: {error}") from error


def _outcomes(result: SuiteResult) -> list[dict[str, Any]]:
    """Every expectation with its outcome; the files of failed ones are listed under `failed_expectations`."""
    counts = ("element_count", "unexpected_count", "missing_count", "observed_value")
    return [
        {
            "type": outcome.expectation_config.type,
            "kwargs": {k: v for k, v in outcome.expectation_config.kwargs.items() if k != "batch_id"},
            "success": bool(outcome.success),
            **{name: outcome.result[name] for name in counts if name in outcome.result},
        }
        for outcome in result.result.results
    ]


def _page(drop: DropRecord, verdict: DropVerdict, quarantined: list[tuple[str, list[str]]]) -> str:
    good, duplicates = verdict.rows.count("good"), verdict.rows.count("duplicate")
    if verdict.rejection_reasons:
        outcome = ("bad", f"Rejected: {'; '.join(verdict.rejection_reasons)}")
    elif held_because := [f.message for f in verdict.findings if f.holds]:
        outcome = ("warn", f"A person must see it before it is accepted: {'; '.join(held_because)}")
    elif verdict.warnings:
        outcome = ("warn", f"Accepted, with a warning: {'; '.join(verdict.warnings)}")
    else:
        outcome = ("good", "The drop meets every expectation of a drop.")
    figures = {"good": good, "duplicates": duplicates, "put aside": len(quarantined)} | verdict.figures
    results = [("The drop as a whole", verdict.drop_result), ("Each image", verdict.images_result)]
    return data_docs.render(f"Drop {drop.prefix}", drop.id, outcome, results, figures, quarantined)
