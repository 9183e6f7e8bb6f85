"""Collects feedback labels into a drop, which goes through intake like any other."""

import csv
import hashlib
import io
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, exists, select, true, update

from ml.catalog import erasures
from ml.catalog.accuracy import prediction_for
from ml.catalog.engine import advisory_lock, transaction
from ml.catalog.feedback import apply_recent_waiting
from ml.catalog.markers import READY
from ml.catalog.tables import drops, feedback
from ml.context import Context
from ml.errors import NotFoundError

log = logging.getLogger(__name__)

_MAX_ROWS = 5000
_MAX_CANDIDATES = 20_000
_IMAGE = ("image_sha256", "image_object", "image_offset", "image_size")


def collect_feedback(ctx: Context) -> str | None:
    """Create a drop from the feedback not used yet; return its prefix, or None if there is too little.

    The drop is named by a hash of its feedback, and the rows are marked before the upload, so after a crash
    the same drop is uploaded again (`_unfinished` finds it). A label that is corrected later goes into
    another drop.

    Raises:
        UnavailableError: the catalog or the bucket does not answer.
    """
    with advisory_lock(ctx.engine, "feedback"):
        for prefix in _unfinished(ctx):
            _upload(ctx, prefix)
        with transaction(ctx.engine) as connection:
            apply_recent_waiting(connection)
            rows = _fresh(connection, ctx.settings.image_retention_days)
            if len(rows) < ctx.settings.feedback_min_labels:
                return None
            ids = [row["id"] for row in rows]
            content = "\n".join(f"{row['id']} {row['label']}" for row in rows)
            name = hashlib.sha256(content.encode()).hexdigest()[:12]
            prefix = f"{ctx.settings.drops_prefix}feedback-{name}/"
            connection.execute(update(feedback).where(feedback.c.id.in_(ids)).values(drop_prefix=prefix))
        _upload(ctx, prefix)
    return prefix


def _fresh(connection: Connection, image_days: int) -> list[dict[str, Any]]:
    """Feedback that is not in a drop yet and whose image is still stored, newest first up to a limit."""
    horizon = datetime.now(UTC) - timedelta(days=image_days)
    unused = (
        select(feedback)
        .where(feedback.c.drop_prefix.is_(None), feedback.c.predicted_at > horizon)
        .order_by(feedback.c.id.desc())
        .limit(_MAX_CANDIDATES)
    ).subquery()
    prediction = prediction_for(unused)
    query = (
        select(unused.c.id, unused.c.label)
        .select_from(unused.join(prediction, true()))
        .where(prediction.c.image_object.is_not(None))
        .order_by(unused.c.id)
        .limit(_MAX_ROWS)
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def _unfinished(ctx: Context) -> list[str]:
    """Prefixes marked in the catalog whose drops intake does not know and which have no marker in the bucket."""
    known_to_intake = exists().where(drops.c.prefix == feedback.c.drop_prefix)
    with transaction(ctx.engine) as connection:
        query = select(feedback.c.drop_prefix).where(feedback.c.drop_prefix.is_not(None), ~known_to_intake).distinct()
        prefixes = list(connection.execute(query).scalars())
    return [p for p in prefixes if not any(o.key[len(p) :].startswith("_") for o in ctx.labels.list(p))]


def _upload(ctx: Context, prefix: str) -> None:
    prediction = prediction_for(feedback)
    with transaction(ctx.engine) as connection:
        rows = connection.execute(
            select(feedback, *(prediction.c[name] for name in _IMAGE))
            .select_from(feedback.join(prediction, true()))
            .where(feedback.c.drop_prefix == prefix)
            .order_by(feedback.c.id)
        ).mappings()
        feedback_rows = [dict(row) for row in rows]
        erased = erasures.erased(connection, {row["image_sha256"] for row in feedback_rows})
    uploaded = dict[str, str]()
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["file", "label", "annotator", "labelled_at"])
    for row in feedback_rows:
        key = f"images/{row['prediction_id']}.img"
        if row["image_object"] is None or row["image_sha256"] in erased:  # an erasure is complete: no copy comes back
            continue
        try:
            data = ctx.store.get(row["image_object"], row["image_offset"], row["image_size"])
        except NotFoundError as error:
            log.warning("feedback %s is left out, its image is gone: %s", row["id"], error)
            continue
        ctx.labels.put(prefix + key, data)
        uploaded[prefix + key] = row["image_sha256"]
        writer.writerow([key, row["label"], f"feedback:{row['source']}", row["created_at"].isoformat()])
    with transaction(ctx.engine) as connection:  # an erasure that began meanwhile may have searched the bucket before
        erased = erasures.erased(connection, set(uploaded.values()))
    ctx.labels.delete([key for key, digest in uploaded.items() if digest in erased])
    ctx.labels.put(f"{prefix}labels.csv", table.getvalue().encode(), "text/csv")
    ctx.labels.put(prefix + READY, b'{"format": "labels_csv"}', "application/json")
