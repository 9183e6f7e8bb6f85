"""Judges a drop: row by row (bad ones go to quarantine), and as a whole (or it is rejected); keeps every result."""

import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any

import orjson

from ml.catalog import cycles, drops, validations
from ml.context import Context
from ml.errors import IntegrityError
from ml.intake import entries, history, label_agreement, quarantine, row_verdicts
from ml.intake.claim import reject
from ml.intake.judgement import Judgement, judge
from ml.validation import data_docs
from ml.validation.suites import KEY, SuiteResult

log = logging.getLogger(__name__)

_WHERE = ("size", "archive", "offset", "span")


@dataclass(frozen=True)
class Validation:
    """What became of a drop in validation; `good`, `duplicates`, `bad` count its images."""

    drop_id: str
    accepted: bool
    reason: str | None
    images: int
    good: int
    duplicates: int
    bad: int


def validate(ctx: Context, drop_id: str) -> Validation:
    """Judge every row and the drop, keep the report, reject the drop if it must be.

    Runs again harmlessly; a drop that is finished keeps its fate.

    Raises:
        NotFoundError: a chunk was not inspected.
        UnavailableError: a server does not answer.
        InvalidInputError: a suite in the expectations folder cannot be used.
    """
    row = drops.get(ctx.engine, drop_id)
    if row["status"] != "claimed":
        return _finished(row)
    head = entries.head(ctx, drop_id)
    if problem := head.problem:  # its claim was killed before it could say so
        reject(ctx, drop_id, problem)
        return _finished(drops.get(ctx.engine, drop_id))
    with cycles.stage(ctx.engine, drop_id, "validate"):
        found = judge(ctx, drop_id, history.read(ctx.engine, row["prefix"]), label_agreement.champion)
        row_verdicts.save(ctx, drop_id, found.fates)
        _keep(ctx, row, found)
    fates, reason = found.fates, "; ".join(found.against) or None
    good, duplicates, bad = (fates.count(name) for name in ("good", "duplicate", "bad"))
    if reason:
        counts = {"images": len(fates), "quarantined": bad, "duplicates": duplicates}
        aside = quarantine.hold(ctx, row["prefix"], drop_id, fates.rows("bad", KEY, "label", "sha256", *_WHERE))
        reject(ctx, drop_id, reason, aside, report_key=data_docs.key(drop_id), format=head.format, **counts)
    return Validation(drop_id, reason is None, reason, len(fates), good, duplicates, bad)


def report_key(drop_id: str) -> str:
    return f"drops/{drop_id}/report.json"


def _finished(row: dict[str, Any]) -> Validation:
    return Validation(
        row["id"],
        row["status"] == "accepted",
        row["reason"],
        row["images"],
        row["accepted"],
        row["duplicates"],
        row["quarantined"],
    )


def _keep(ctx: Context, row: dict[str, Any], found: Judgement) -> None:
    """The report for programs, the page for people, the row that later drops are compared with."""
    drop_id, page = row["id"], data_docs.key(row["id"])
    aside = [(r[KEY], r["reasons"]) for r in found.fates.rows("bad", KEY)]
    ctx.store.put(report_key(drop_id), _report(drop_id, found, dict(aside)), "application/json")
    data_docs.publish(ctx, page, _page(row, found, aside))
    validations.keep(
        ctx.engine,
        "drop",
        drop_id,
        failures=found.against,
        warnings=found.warnings,
        figures=found.figures,
        report_key=page,
    )
    log.info("drop %s: data docs at %s", drop_id, data_docs.url(ctx.settings, page))


def _report(drop_id: str, found: Judgement, quarantined: dict[str, list[str]]) -> bytes:
    body = {
        "drop_id": drop_id,
        "figures": found.figures,
        "classes": Counter(r["label"] for r in found.fates.rows("good", "label")),
        "rejected_because": found.against,
        "warnings": found.warnings,
        "quarantined": quarantined,
        "failed_expectations": [*found.whole.failed, *found.by_row.failed],
        "results": {name: _told(v) for name, v in (("drop", found.whole), ("images", found.by_row))},
    }
    try:
        return orjson.dumps(body, option=orjson.OPT_INDENT_2, default=str)
    except orjson.JSONEncodeError as error:
        raise IntegrityError(f"the report of drop {drop_id} cannot be written as JSON: {error}") from error


def _told(verdict: SuiteResult) -> list[dict[str, Any]]:
    """Every expectation with its outcome, those that held too; the files stand under `failed_expectations`."""
    counts = ("element_count", "unexpected_count", "missing_count", "observed_value")
    return [
        {
            "type": outcome.expectation_config.type,
            "kwargs": {k: v for k, v in outcome.expectation_config.kwargs.items() if k != "batch_id"},
            "success": bool(outcome.success),
            **{name: outcome.result[name] for name in counts if name in outcome.result},
        }
        for outcome in verdict.result.results
    ]


def _page(row: dict[str, Any], found: Judgement, aside: list[tuple[str, list[str]]]) -> str:
    good, duplicates = found.fates.count("good"), found.fates.count("duplicate")
    if found.against:
        outcome = ("bad", f"Rejected: {'; '.join(found.against)}")
    elif found.warnings:
        outcome = ("warn", f"Accepted, with a warning: {'; '.join(found.warnings)}")
    else:
        outcome = ("good", "The drop meets every expectation of a drop.")
    told = {"good": good, "duplicates": duplicates, "put aside": len(aside)} | found.figures
    verdicts = [("The drop as a whole", found.whole), ("Each image", found.by_row)]
    return data_docs.page(f"Drop {row['prefix']}", row["id"], outcome, verdicts, told, aside)
