"""The stage between validation and acceptance: are the labels of a drop right, and can they be learned by accident?"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select
from threadpoolctl import threadpool_limits

from ml.catalog import cycles, drops
from ml.catalog.engine import transaction
from ml.catalog.tables import label_tasks, samples
from ml.context import Context
from ml.datasets import labels
from ml.datasets.labels import LabelQuestion
from ml.errors import NotFoundError
from ml.intake import held, row_verdicts, staging_tars
from ml.label_checks import examine, report
from ml.label_checks.examine import Examined
from ml.label_checks.judge import PROBABLY
from ml.label_checks.report import LabelReport, SuspectImage
from ml.validation import data_docs

log = logging.getLogger(__name__)

REASON: Final = "suspected_label_error"
MOST_JUDGED: Final = 2500
_ALL_UP_TO: Final = 500
_FURTHER: Final = 20
_LEAST_OF_CLASS: Final = 10
COLUMNS: Final = ("key", "sha256", "label", "chunk", "packed", "bytes", "format", "width", "height", "grey")
"""Of a row, what the check needs."""


@dataclass(frozen=True)
class CheckResult:
    """The outcome of the stage: whether the drop waits for a person, and what was found."""

    drop_id: str
    held: bool
    report: LabelReport | None


def check(ctx: Context, drop_id: str) -> CheckResult:
    """Check the labels of a validated drop; hold it for a person if they look wrong.

    Of a drop of more than 500 images a part is looked at, chosen by hash: 500 and a twentieth of the others, at most
    2,500, and ten of each class. Idempotent: what was found once is not looked for again. Uses one thread.

    Raises:
        NotFoundError: the drop was not validated.
        UnavailableError: a server does not answer.
    """
    drop = drops.get(ctx.engine, drop_id)
    if drop.status not in ("claimed", "held"):  # a drop that another check holds shows the findings of all
        return CheckResult(drop_id, held=False, report=None)
    with cycles.stage(ctx.engine, drop_id, "check labels"):
        found = _stored_report(ctx, drop_id) or _judge(ctx, drop_id)
        waits = held.hold(ctx, drop_id, found.findings)
        if not waits and ctx.settings.label_suspects == "quarantine":
            _put_aside(ctx, drop_id, found)
    log.info("drop %s: %s", drop_id, report.words(found))
    return CheckResult(drop_id, waits, found)


def open_questions(ctx: Context, drop_id: str) -> int:
    """Open a label task for each suspected image of an accepted drop, at most `review_most`; return how many.

    Idempotent: an image that was asked about before, or whose label is another one by now, is passed over.
    """
    found = _stored_report(ctx, drop_id)
    if found is None or drops.get(ctx.engine, drop_id).status != "accepted":
        return 0
    suspects = {s.sha256: s for s in _probable(found)[: ctx.settings.review_most]}
    hashes = list(suspects)
    with transaction(ctx.engine) as connection:
        query = select(samples.c.sha256, samples.c.label).where(samples.c.sha256.in_(hashes))
        current: dict[str, str] = dict(connection.execute(query).all())
        asked_query = select(label_tasks.c.sha256).where(
            label_tasks.c.sha256.in_(hashes), label_tasks.c.reason == REASON
        )
        asked = set(connection.execute(asked_query).scalars())
        questions = [
            LabelQuestion(
                sha256=digest,
                reason=REASON,
                score=s.probability,
                label=s.label,
                suggested=s.likely,
                details={"drop": drop_id, "probability": s.probability},
            )
            for digest, s in suspects.items()
            if digest not in asked and current.get(digest) == s.label
        ]
        labels.open_tasks(connection, questions)
    return len(questions)


def _stored_report(ctx: Context, drop_id: str) -> LabelReport | None:
    try:
        return LabelReport.parse(ctx.store.get(report.key(drop_id)))
    except NotFoundError:
        return None


def _judge(ctx: Context, drop_id: str) -> LabelReport:
    with row_verdicts.open_stored(ctx, drop_id) as verdicts:
        rows = verdicts.columns("good", COLUMNS).to_pylist()
    chosen = choose(rows)
    encoded = [
        staging_tars.image(member, row["bytes"])
        for member, row in zip(staging_tars.read(ctx, drop_id, chosen), chosen, strict=True)
    ]
    with threadpool_limits(1):
        found = examine.examine(ctx, Examined(drop_id, len(rows), chosen, encoded))
    _publish(ctx, found)
    ctx.store.put(report.key(drop_id), found.to_json(), "application/json")
    return found


def choose(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that are looked at, in the order of their hashes, which does not depend on labels or names."""
    ordered = sorted(rows, key=lambda row: str(row["sha256"]))
    most = min(MOST_JUDGED, len(ordered), _ALL_UP_TO + max(0, len(ordered) - _ALL_UP_TO) // _FURTHER)
    counts: dict[str, int] = {}
    chosen: list[dict[str, Any]] = []
    for i, row in enumerate(ordered):
        seen = counts.get(row["label"], 0)
        if i < most or (seen < _LEAST_OF_CLASS and len(chosen) < 2 * MOST_JUDGED):
            counts[row["label"]] = seen + 1
            chosen.append(row)
    return chosen


def _publish(ctx: Context, found: LabelReport) -> None:
    """The page of Data Docs that shows estimate, confusion and the worst images."""
    holds = any(f.holds for f in found.findings)
    kind = "bad" if holds else "warn" if found.findings else "good"
    outcome = (kind, " ".join([report.words(found), *(f"Found: {f.message}." for f in found.findings)]))
    figures = {name: value for name, value in found.figures.items() if value is not None}
    page = data_docs.render(
        f"Labels of drop {found.drop_id}",
        found.drop_id,
        outcome,
        [],
        figures,
        report.page_rows(found),
        ("classes and images to look at", "Given"),
    )
    data_docs.publish(ctx, page_key(found.drop_id), page)


def page_key(drop_id: str) -> str:
    """The object key of the page."""
    return data_docs.key(f"{drop_id}-labels")


def _probable(found: LabelReport) -> list[SuspectImage]:
    return [s for s in found.suspects if s.probability > PROBABLY]


def _put_aside(ctx: Context, drop_id: str, found: LabelReport) -> None:
    """Turn suspected images into bad rows, which acceptance quarantines; again it changes nothing."""
    reasons = {
        s.key: f"the label {s.label} is probably wrong: it looks like {s.likely} ({s.probability:.0%})"
        for s in _probable(found)
    }
    if reasons:
        row_verdicts.turn_bad(ctx, drop_id, reasons)
