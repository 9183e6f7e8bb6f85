"""Judges a drop: row by row (bad ones go to quarantine), and as a whole (or it is rejected)."""

import logging
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from ml.catalog import cycles, drops
from ml.catalog.classes import class_map, renamed
from ml.catalog.engine import transaction
from ml.context import Context
from ml.errors import IntegrityError, NotFoundError
from ml.images import Limits
from ml.intake import agreement, docs, entries, held, inspect, judged, packs, quarantine, suites
from ml.intake.claim import reject
from ml.intake.judged import Judged
from ml.intake.suites import KEY, Verdict

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


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
    with cycles.stage(ctx.engine, drop_id, "validate"), tempfile.TemporaryDirectory() as folder:
        rows = _rows(ctx, drop_id)
        by_row = _judge_rows(ctx, rows, drop_id, Path(folder) / "images")
        parts = _sorted(rows, by_row)
        figures = _figures(ctx, drop_id, head.format, len(rows), parts)
        whole = _judge_drop(ctx, figures, drop_id, Path(folder) / "drop")
        judged.save(ctx, drop_id, parts)
        report_key = docs.publish(ctx, drop_id, Path(folder), _report(drop_id, figures, by_row, whole, parts))
    reason = "; ".join(_against_the_drop(by_row, whole)) or None
    result = Validation(
        drop_id, reason is None, reason, len(rows), len(parts.good), len(parts.duplicates), len(parts.bad)
    )
    if reason:
        counts = {"images": result.images, "quarantined": result.bad, "duplicates": result.duplicates}
        aside = quarantine.hold(ctx, row["prefix"], drop_id, parts.bad)
        reject(ctx, drop_id, reason, aside, report_key=report_key, format=figures["format"], **counts)
    return result


def _against_the_drop(by_row: Verdict, whole: Verdict) -> list[str]:
    return [*(words for reasons in whole.reasons.values() for words in reasons), *whole.overall, *by_row.overall]


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


def _rows(ctx: Context, drop_id: str) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = inspect.read_rows(ctx, drop_id).to_pylist()
    except NotFoundError as error:
        raise NotFoundError(f"drop {drop_id} is not wholly inspected: {error}") from error
    return rows


def _judge_rows(ctx: Context, rows: list[dict[str, Any]], drop_id: str, folder: Path) -> Verdict:
    import pandas as pd

    with transaction(ctx.engine) as connection:
        mapping = class_map(connection)
    for row in rows:
        row["label"] = renamed(row["label"], mapping)
    known = judged.known_labels(ctx.engine, sorted({r["sha256"] for r in rows if r["sha256"]}))
    conflict = judged.conflicts(rows)
    for row in rows:
        row["known"] = known.get(row["sha256"])
    frame = pd.DataFrame(rows)
    frame["aspect"] = frame["width"] / frame["height"]
    frame["conflict"] = [conflict.get(r["key"]) for r in rows]
    frame["class_problem"] = _class_problems(ctx, rows, drop_id)
    return suites.judge(ctx.settings.expectations / "images.yml", _objects(frame), folder, drop_id)


def _objects(frame: "pd.DataFrame") -> "pd.DataFrame":
    """All-empty columns as objects: an all-NaN float column cannot be matched against a pattern."""
    empty = [name for name in frame.columns if frame[name].isna().all()]
    return frame.astype(dict.fromkeys(empty, object)).where(frame.notna(), None)


def _class_problems(ctx: Context, rows: list[dict[str, Any]], drop_id: str) -> list[str | None]:
    policy, classes = ctx.settings.new_classes, judged.known_classes(ctx.engine)
    if policy == "accept" or not classes:
        return [None] * len(rows)
    with transaction(ctx.engine) as connection:
        if held.is_release(connection, drops.get(ctx.engine, drop_id)["prefix"]):
            return [None] * len(rows)
    words = {"hold": "waits for approval", "reject": "is not allowed"}[policy]
    return [
        f"class {r['label']} is new and {words} (setting `new_classes`)"
        if r["label"] and r["label"] not in classes
        else None
        for r in rows
    ]


def _sorted(rows: list[dict[str, Any]], verdict: Verdict) -> Judged:
    parts = Judged([], [], [])
    first: dict[str, dict[str, Any]] = {}
    for row in rows:
        row["twin"] = False
        if reasons := verdict.reasons.get(row[KEY]) or _unusable(row):
            parts.bad.append(row | {"reasons": reasons})
        elif row["known"] is not None:
            parts.duplicates.append(row)
        elif same := first.get(row["sha256"]):
            same["others"] = [*(same["others"] or ()), *_said(row)]
            parts.duplicates.append(row | {"twin": True})
        else:
            first[row["sha256"]] = row
            parts.good.append(row)
    return parts


def _said(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [{name: row[name] for name, _ in entries.ANNOTATION}, *(row["others"] or ())]


def _unusable(row: dict[str, Any]) -> list[str]:
    """What no suite can allow, however it is edited."""
    if row["fingerprint"] is None:
        return [row["problem"] or "it could not be decoded"]
    return [] if row["label"] else ["it has no label"]


def _figures(ctx: Context, drop_id: str, format_name: str, count: int, parts: Judged) -> dict[str, Any]:
    """The one row that `drop.yml` judges."""
    sound = len(parts.good) + len(parts.duplicates)
    counts = Counter(r["label"] for r in parts.good)
    return {
        KEY: "drop",
        "format": format_name,
        "images": count,
        "good_share": sound / count if count else None,
        "duplicate_share": len(parts.duplicates) / count if count else None,
        "classes": len(counts),
        "largest_class_share": max(counts.values()) / len(parts.good) if parts.good else None,
        "brightness": sum(r["brightness"] for r in parts.good) / len(parts.good) if parts.good else None,
        "label_agreement": _agreement(ctx, drop_id, parts),
    }


def _agreement(ctx: Context, drop_id: str, parts: Judged) -> float | None:
    if len(parts.good) < agreement.ENOUGH or (judge := agreement.champion(ctx)) is None:
        return None

    def fetch(rows: Sequence[dict[str, Any]]) -> list[bytes]:
        return [packs.image(m, r["bytes"]) for m, r in zip(packs.read(ctx, drop_id, rows), rows, strict=True)]

    limits = Limits(ctx.settings.max_image_bytes, ctx.settings.max_image_pixels)
    return agreement.label_agreement(judge, parts.good, fetch, limits, drop_id)


def _judge_drop(ctx: Context, figures: dict[str, Any], drop_id: str, folder: Path) -> Verdict:
    import pandas as pd

    return suites.judge(ctx.settings.expectations / "drop.yml", _objects(pd.DataFrame([figures])), folder, drop_id)


def _report(drop_id: str, figures: dict[str, Any], rows: Verdict, whole: Verdict, parts: Judged) -> bytes:
    body = {
        "drop_id": drop_id,
        "figures": {k: v for k, v in figures.items() if k != KEY},
        "classes": Counter(r["label"] for r in parts.good),
        "rejected_because": _against_the_drop(rows, whole),
        "quarantined": {r[KEY]: r["reasons"] for r in parts.bad},
        "failed_expectations": [*whole.failed, *rows.failed],
    }
    try:
        return orjson.dumps(body, option=orjson.OPT_INDENT_2)
    except orjson.JSONEncodeError as error:
        raise IntegrityError(f"the report of drop {drop_id} cannot be written as JSON: {error}") from error
