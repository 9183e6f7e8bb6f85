"""Labels that came back become a drop, which goes through intake like any other."""

import csv
import hashlib
import io
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, exists, select, true, update

from ml.catalog.accuracy import answer_to
from ml.catalog.engine import advisory_lock, transaction
from ml.catalog.feedback import settle_late
from ml.catalog.tables import drops, feedback
from ml.context import Context
from ml.errors import NotFoundError
from ml.intake.find import READY

log = logging.getLogger(__name__)

_MOST = 5000
_LOOKED_AT = 20_000


def collect_feedback(ctx: Context) -> str | None:
    """Make one drop of the feedback not used yet; its prefix, or None when there is too little.

    The drop's name is a hash of the feedback in it and the rows are marked before anything is
    uploaded, so a collector that is killed makes the same drop again: `_unfinished` finds it. A label
    that is corrected later goes into another drop.

    Raises:
        UnavailableError: the catalog or the bucket does not answer.
    """
    with advisory_lock(ctx.engine, "feedback"):
        for prefix in _unfinished(ctx):
            _upload(ctx, prefix)
        with transaction(ctx.engine) as connection:
            settle_late(connection)
            rows = _fresh(connection, ctx.settings.image_retention_days)
            if len(rows) < ctx.settings.feedback_min_labels:
                return None
            ids = [row["id"] for row in rows]
            told = "\n".join(f"{row['id']} {row['label']}" for row in rows)
            name = hashlib.sha256(told.encode()).hexdigest()[:12]
            prefix = f"{ctx.settings.drops_prefix}feedback-{name}/"
            connection.execute(update(feedback).where(feedback.c.id.in_(ids)).values(drop_prefix=prefix))
        _upload(ctx, prefix)
    return prefix


def _fresh(connection: Connection, image_days: int) -> list[dict[str, Any]]:
    """Feedback that no drop has and whose image is still there, of the newest that no drop has."""
    horizon = datetime.now(UTC) - timedelta(days=image_days)
    told = (
        select(feedback)
        .where(feedback.c.drop_prefix.is_(None), feedback.c.predicted_at > horizon)
        .order_by(feedback.c.id.desc())
        .limit(_LOOKED_AT)
    ).subquery()
    answer = answer_to(told)
    query = (
        select(told.c.id, told.c.label)
        .select_from(told.join(answer, true()))
        .where(answer.c.image_object.is_not(None))
        .order_by(told.c.id)
        .limit(_MOST)
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def _unfinished(ctx: Context) -> list[str]:
    """Drops that were marked in the catalog but never became ready in the bucket; intake has not seen them."""
    seen = exists().where(drops.c.prefix == feedback.c.drop_prefix)
    with transaction(ctx.engine) as connection:
        query = select(feedback.c.drop_prefix).where(feedback.c.drop_prefix.is_not(None), ~seen).distinct()
        prefixes = list(connection.execute(query).scalars())
    return [p for p in prefixes if not any(o.key[len(p) :].startswith("_") for o in ctx.labels.list(p))]


def _upload(ctx: Context, prefix: str) -> None:
    answer = answer_to(feedback)
    with transaction(ctx.engine) as connection:
        rows = connection.execute(
            select(feedback, answer.c.image_object, answer.c.image_offset, answer.c.image_size)
            .select_from(feedback.join(answer, true()))
            .where(feedback.c.drop_prefix == prefix)
            .order_by(feedback.c.id)
        ).mappings()
        told = [dict(row) for row in rows]
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["file", "label", "annotator", "labelled_at"])
    for row in told:
        key = f"images/{row['prediction_id']}.img"
        try:
            data = ctx.store.get(row["image_object"], row["image_offset"], row["image_size"])
        except NotFoundError as error:
            log.warning("feedback %s is left out, its image is gone: %s", row["id"], error)
            continue
        ctx.labels.put(prefix + key, data)
        writer.writerow([key, row["label"], f"feedback:{row['source']}", row["created_at"].isoformat()])
    ctx.labels.put(f"{prefix}labels.csv", table.getvalue().encode(), "text/csv")
    ctx.labels.put(prefix + READY, b'{"format": "labels_csv"}', "application/json")
