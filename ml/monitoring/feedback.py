"""Collects the votes of annotators and reviewers into a drop, which goes through intake like any other.

What is only proposed never gets into a drop: people decide it, see `ml.catalog.label_queue`.
"""

import csv
import hashlib
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

from sqlalchemy import Connection, Select, delete, exists, select, true, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from ml.catalog import erasures, feedback_later, label_queue
from ml.catalog import feedback as feedback_rows
from ml.catalog.accuracy import prediction_for
from ml.catalog.engine import advisory_lock, transaction
from ml.catalog.feedback import FeedbackLimits
from ml.catalog.label_queue import Opinion
from ml.catalog.markers import READY
from ml.catalog.tables import drops, feedback, feedback_drops, samples
from ml.context import Context
from ml.datasets import answers, withdraw
from ml.errors import NotFoundError

log = logging.getLogger(__name__)

_MAX_ROWS: Final = 5000
_MAX_CANDIDATES: Final = 20_000


@dataclass(frozen=True)
class _Vote:
    """What one caller says of one image.

    Attributes:
        given_at: when it was last said.
    """

    image_sha256: str
    key_id: str
    label: str
    given_at: datetime


@dataclass(frozen=True)
class _FreshFeedback:
    """A row of feedback that is in no drop yet."""

    id: int
    image_sha256: str
    key_id: str
    level: str
    label: str
    changed: bool

    @classmethod
    def from_row(cls, row: Any) -> Self:
        return cls(**{name: row[name] for name in cls.__dataclass_fields__})


def collect_feedback(ctx: Context) -> str | None:
    """Create a drop from the votes not used yet; return its prefix, or None if there are too few.

    Before that, answers to label tasks and decisions on samples are applied, revocations are finished, and the review
    queue is told what is proposed. A vote that replaces one that is in the data waits for no others.

    The drop is named by a hash of its feedback, and the rows are marked before the upload, so after a crash
    the same drop is uploaded again (`_unfinished` finds it). A label that is corrected later goes into
    another drop.

    Raises:
        UnavailableError: the catalog or the bucket does not answer.
    """
    limits = FeedbackLimits.from_settings(ctx.settings)
    with advisory_lock(ctx.engine, "feedback"):
        withdraw.finish_revocations(ctx)
        answers.apply_answered(ctx)
        for prefix in _unfinished(ctx):
            _upload(ctx, prefix)
        with transaction(ctx.engine) as connection:
            feedback_later.apply_recent_waiting(connection, limits=limits)
            feedback_later.queue_pending(connection, limits)
            rows = _fresh(connection, ctx.settings.image_retention_days)
            votes = {(row.image_sha256, row.key_id) for row in rows}
            if not rows or (len(votes) < ctx.settings.feedback_min_labels and not any(row.changed for row in rows)):
                return None
            prefix = _mark(connection, rows, ctx.settings.drops_prefix)
        return prefix if _upload(ctx, prefix) else None


def _fresh(connection: Connection, image_days: int) -> list[_FreshFeedback]:
    """Votes that are not in the data yet and whose image is still stored, newest first up to a limit.

    Not those of paused or revoked callers, on images that were erased, for classes that nobody confirmed, or that a
    reviewer overruled.
    """
    unused = (
        _counting(connection)
        .where(feedback.c.drop_prefix.is_(None), feedback.c.applied_at.is_(None))
        .where(feedback.c.predicted_at > datetime.now(UTC) - timedelta(days=image_days))
        .where(~_overruled(), ~_applies_directly())
        .order_by(feedback.c.id.desc())
        .limit(_MAX_CANDIDATES)
    ).subquery()
    prediction = prediction_for(unused)
    query = (
        select(unused)
        .select_from(unused.join(prediction, true()))
        .where(prediction.c.image_object.is_not(None))
        .order_by(unused.c.id)
        .limit(_MAX_ROWS)
    )
    rows = [_FreshFeedback.from_row(row) for row in connection.execute(query).mappings()]
    erased = erasures.erased(connection, {row.image_sha256 for row in rows})
    return [row for row in rows if row.image_sha256 not in erased]


def _counting(connection: Connection) -> Select[Any]:
    """Feedback of annotators and reviewers that counts now."""
    classes, excluded = feedback_rows.known_labels(connection), feedback_rows.excluded_callers(connection)
    return select(feedback).where(
        feedback.c.status == "stored",
        feedback.c.level.in_(("annotate", "review")),
        feedback.c.revoked_at.is_(None),
        feedback.c.image_sha256.is_not(None),
        feedback.c.key_id.not_in(excluded),
        feedback.c.label.in_(classes),
    )


def _overruled() -> Any:
    """Whether a reviewer spoke of the image later."""
    later = feedback.alias("review")
    return exists().where(
        later.c.image_sha256 == feedback.c.image_sha256,
        later.c.level == "review",
        later.c.status == "stored",
        later.c.revoked_at.is_(None),
        tuple_(later.c.given_at, later.c.id) > tuple_(feedback.c.given_at, feedback.c.id),
    )


def _applies_directly() -> Any:
    """Whether it is a reviewer's word on a sample, which needs no drop."""
    return (feedback.c.level == "review") & exists().where(samples.c.sha256 == feedback.c.image_sha256)


def _mark(connection: Connection, rows: Sequence[_FreshFeedback], drops_prefix: str) -> str:
    """Mark the rows as part of a drop, and keep who is in it with which level; returns its prefix."""
    content = "\n".join(f"{row.id} {row.label}" for row in rows)
    prefix = f"{drops_prefix}feedback-{hashlib.sha256(content.encode()).hexdigest()[:12]}/"
    ids = [row.id for row in rows]
    connection.execute(update(feedback).where(feedback.c.id.in_(ids)).values(drop_prefix=prefix, changed=False))
    levels = {row.key_id: row.level for row in sorted(rows, key=lambda row: row.level == "review")}
    authors = [{"prefix": prefix, "key_id": key_id, "level": level} for key_id, level in levels.items()]
    connection.execute(insert(feedback_drops).on_conflict_do_nothing(), authors)
    return prefix


def _unfinished(ctx: Context) -> list[str]:
    """Prefixes marked in the catalog whose drops intake does not know and which have no marker in the bucket."""
    known_to_intake = exists().where(drops.c.prefix == feedback_drops.c.prefix)
    with transaction(ctx.engine) as connection:
        prefixes = list(
            connection.execute(select(feedback_drops.c.prefix).where(~known_to_intake).distinct()).scalars()
        )
    return [p for p in prefixes if not any(o.key[len(p) :].startswith("_") for o in ctx.labels.list(p))]


def _upload(ctx: Context, prefix: str) -> bool:
    """Put the drop into the bucket; False if nothing of it counts any more, as after a revocation."""
    places, votes = _contents(ctx, prefix)
    uploaded = [digest for digest, place in places.items() if _put_image(ctx, prefix, digest, place)]
    with transaction(ctx.engine) as connection:  # an erasure that began meanwhile may have searched the bucket before
        erased = erasures.erased(connection, uploaded)
    files = {digest: _file(digest) for digest in uploaded if digest not in erased}
    # Of an upload that was killed, some may not count any more.
    unwanted = {o.key for o in ctx.labels.list(prefix)} - {prefix + file for file in files.values()}
    ctx.labels.delete(sorted(unwanted))
    if not files:
        _give_up(ctx, prefix)
        return False
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["file", "label", "annotator", "labelled_at"])
    for digest, file in files.items():
        for vote in votes[digest]:
            writer.writerow([file, vote.label, feedback_rows.annotator(vote.key_id), vote.given_at.isoformat()])
    ctx.labels.put(f"{prefix}labels.csv", table.getvalue().encode(), "text/csv")
    ctx.labels.put(prefix + READY, b'{"format": "labels_csv"}', "application/json")
    return True


def _file(digest: str) -> str:
    return f"images/{digest}.img"


def _put_image(ctx: Context, prefix: str, digest: str, place: tuple[str, int, int]) -> bool:
    """Put an image of the prediction log into the drop; False if it is gone."""
    try:
        data = ctx.store.get(*place)
    except NotFoundError as error:
        log.warning("feedback on image %s is left out, it is gone: %s", digest, error)
        return False
    ctx.labels.put(prefix + _file(digest), data)
    return True


def _give_up(ctx: Context, prefix: str) -> None:
    """Forget a drop that was never ready; what still counts is collected, or proposed, anew."""
    with transaction(ctx.engine) as connection:
        rows = update(feedback).where(feedback.c.drop_prefix == prefix)
        connection.execute(rows.values(drop_prefix=None, queued=False))
        connection.execute(delete(feedback_drops).where(feedback_drops.c.prefix == prefix))


def _contents(ctx: Context, prefix: str) -> tuple[dict[str, tuple[str, int, int]], dict[str, list[_Vote]]]:
    """The images of a drop, where each is stored, and the votes on it, as they count now."""
    with transaction(ctx.engine) as connection:
        counting = _counting(connection)
        marked = counting.where(feedback.c.drop_prefix == prefix, ~_overruled()).subquery()
        prediction = prediction_for(marked)
        rows = connection.execute(
            select(
                *(marked.c.image_sha256, marked.c.key_id),
                *(prediction.c.image_object, prediction.c.image_offset, prediction.c.image_size),
            )
            .select_from(marked.join(prediction, true()))
            .where(prediction.c.image_object.is_not(None))
            .order_by(marked.c.id)
        ).all()
        erased = erasures.erased(connection, {row.image_sha256 for row in rows})
        rows = [row for row in rows if row.image_sha256 not in erased]
        pairs = sorted({(row.image_sha256, row.key_id) for row in rows})
        votes = _votes(connection, counting, pairs)
    places = {row.image_sha256: (row.image_object, row.image_offset, row.image_size) for row in rows}
    return places, votes


def _votes(connection: Connection, counting: Select[Any], pairs: Sequence[tuple[str, str]]) -> dict[str, list[_Vote]]:
    """The vote of each of these pairs of image and caller, by image; of all that the caller's end users say."""
    opinions: dict[str, list[Opinion]] = {}
    for start in range(0, len(pairs), _MAX_ROWS):
        page = pairs[start : start + _MAX_ROWS]
        query = counting.where(tuple_(feedback.c.image_sha256, feedback.c.key_id).in_(page), ~_overruled())
        for row in connection.execute(query).mappings():
            opinion = Opinion(**{name: row[name] for name in Opinion.__dataclass_fields__})
            opinions.setdefault(row["image_sha256"], []).append(opinion)
    return {
        digest: [
            _Vote(digest, key_id, label, max(o.given_at for o in of_image if o.key_id == key_id))
            for key_id, label in sorted(label_queue.votes(of_image).items())
        ]
        for digest, of_image in opinions.items()
    }
