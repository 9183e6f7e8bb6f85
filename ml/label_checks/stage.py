"""The stage between validation and acceptance: are the labels of a drop right, and can they be learned by accident?"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
from sqlalchemy import select
from threadpoolctl import threadpool_limits

from ml.catalog import cycles, drops
from ml.catalog.engine import transaction
from ml.catalog.tables import label_tasks, samples
from ml.context import Context
from ml.datasets import labels
from ml.datasets.labels import LabelQuestion
from ml.errors import NotFoundError, UnavailableError
from ml.intake import held, row_verdicts, staging_tars
from ml.intake.findings import Finding
from ml.intake.row_verdicts import RowVerdicts
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
_COLUMNS: Final = ("key", "sha256", "label", "chunk", "packed", "bytes", "format", "width", "height", "grey")
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
        label_report = _stored_report(ctx, drop_id) or _judge(ctx, drop_id)
        waits = held.hold(ctx, drop_id, label_report.findings)
        if not waits and ctx.settings.label_suspects == "quarantine":
            _put_aside(ctx, drop_id, label_report)
    log.info("drop %s: %s", drop_id, report.words(label_report))
    return CheckResult(drop_id, waits, label_report)


def open_questions(ctx: Context, drop_id: str) -> int:
    """Open a label task for each suspected image of an accepted drop, at most `review_most`; return how many.

    Idempotent: an image that was asked about before, or whose label is another one by now, is passed over.
    """
    stored_report = _stored_report(ctx, drop_id)
    if stored_report is None or drops.get(ctx.engine, drop_id).status != "accepted":
        return 0
    suspects = {s.sha256: s for s in _probable(stored_report)[: ctx.settings.review_most]}
    hashes = list(suspects)
    with transaction(ctx.engine) as connection:
        query = select(samples.c.sha256, samples.c.label).where(samples.c.sha256.in_(hashes))
        current: dict[str, str] = dict(connection.execute(query).all())
        asked_query = select(label_tasks.c.sha256).where(
            label_tasks.c.sha256.in_(hashes), label_tasks.c.reason == REASON
        )
        asked_hashes = set(connection.execute(asked_query).scalars())
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
            if digest not in asked_hashes and current.get(digest) == s.label
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
        rows = verdicts.columns("good", _COLUMNS)
    with threadpool_limits(1):
        label_report = examine.examine(ctx, _choose(ctx, drop_id, rows))
    _publish(ctx, label_report)
    ctx.store.put(report.key(drop_id), label_report.to_json(), "application/json")
    return label_report


def preview(ctx: Context, local: Context, drop_id: str, verdicts: RowVerdicts, with_stored: bool) -> Sequence[Finding]:
    """What the stage would find in a drop that is not uploaded yet.

    Args:
        ctx: with the stored samples; the drop is checked without them where they cannot be reached.
        local: with the store that holds the inspected images.
        drop_id: the drop.
        verdicts: of its validated rows.
        with_stored: whether the stored samples can be reached.
    """
    examined = _choose(local, drop_id, verdicts.columns("good", _COLUMNS))
    with threadpool_limits(1):
        if with_stored:
            try:
                return examine.examine(ctx, examined).findings
            except UnavailableError as error:
                log.warning("labels are not compared with the stored samples: %s", error)
        return examine.examine(ctx, examined, with_stored=False).findings


def _choose(ctx: Context, drop_id: str, rows: pa.Table) -> Examined:
    """The rows that are looked at, in the order of their hashes, which does not depend on labels or names."""
    ordered = rows.sort_by("sha256")
    most = min(MOST_JUDGED, len(rows), _ALL_UP_TO + max(0, len(rows) - _ALL_UP_TO) // _FURTHER)
    counts: Counter[str] = Counter()
    positions: list[int] = []
    for i, label in enumerate(ordered["label"].to_pylist()):
        if i < most or (counts[label] < _LEAST_OF_CLASS and len(positions) < 2 * MOST_JUDGED):
            counts[label] += 1
            positions.append(i)
    chosen = ordered.take(pa.array(positions, pa.int64())).to_pylist()
    encoded = [
        staging_tars.image(member, row["bytes"])
        for member, row in zip(staging_tars.read(ctx, drop_id, chosen), chosen, strict=True)
    ]
    return Examined(drop_id, len(rows), chosen, encoded)


def _publish(ctx: Context, label_report: LabelReport) -> None:
    """The page of Data Docs that shows estimate, confusion and the worst images."""
    holds = any(f.holds for f in label_report.findings)
    kind = "bad" if holds else "warn" if label_report.findings else "good"
    outcome = (kind, " ".join([report.words(label_report), *(f"Found: {f.message}." for f in label_report.findings)]))
    figures = {name: value for name, value in label_report.figures.items() if value is not None}
    page = data_docs.render(
        f"Labels of drop {label_report.drop_id}",
        label_report.drop_id,
        outcome,
        [],
        figures,
        report.page_rows(label_report),
        ("classes and images to look at", "Given"),
    )
    data_docs.publish(ctx, page_key(label_report.drop_id), page)


def page_key(drop_id: str) -> str:
    """The object key of the page."""
    return data_docs.key(f"{drop_id}-labels")


def _probable(label_report: LabelReport) -> list[SuspectImage]:
    return [s for s in label_report.suspects if s.probability > PROBABLY]


def _put_aside(ctx: Context, drop_id: str, label_report: LabelReport) -> None:
    """Turn suspected images into bad rows, which acceptance quarantines; again it changes nothing."""
    reasons = {
        s.key: f"the label {s.label} is probably wrong: it looks like {s.likely} ({s.probability:.0%})"
        for s in _probable(label_report)
    }
    if reasons:
        row_verdicts.turn_bad(ctx, drop_id, reasons)
