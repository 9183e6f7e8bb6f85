"""Holds a drop for a person, and carries out what the person decides; see `ml.catalog.held_drops`."""

from collections.abc import Sequence
from typing import Any, Final

import pyarrow.compute as pc

from ml.catalog import held_drops
from ml.catalog.drops import DropRecord
from ml.catalog.engine import transaction
from ml.context import Context
from ml.errors import NotFoundError
from ml.intake import row_verdicts, staging_tars
from ml.intake.claim import acknowledge
from ml.intake.findings import Finding
from ml.storage import tar_members

PICTURES: Final = 12
"""Images of a finding that the console shows."""


def hold(ctx: Context, drop_id: str, findings: Sequence[Finding]) -> bool:
    """Store what a check found; return whether the drop waits for a person now.

    Every check of a drop calls this, also with nothing: findings of several checks are shown together. Idempotent. A
    finding whose kind was approved for this drop does not hold it again. The marker of a drop that waits is `_HELD`.

    Raises:
        UnavailableError: a server does not answer.
    """
    rows = [finding.as_json() for finding in findings]
    if any(finding.images for finding in findings):
        places = _places(ctx, drop_id, {key for finding in findings for key in finding.images[:PICTURES]})
        for row in rows:
            row["pictures"] = [places[key] for key in row["images"][:PICTURES] if key in places]
    with transaction(ctx.engine) as connection:
        waits = held_drops.record_findings(connection, drop_id, rows)
    if waits:
        acknowledge(ctx, drop_id)
    return waits


def approve(ctx: Context, drop: str, *, actor: str, reason: str) -> DropRecord:
    """As `ml.catalog.held_drops.approve`."""
    return held_drops.approve(ctx.engine, ctx.labels, drop, actor=actor, reason=reason)


def reject(ctx: Context, drop: str, *, actor: str, reason: str) -> DropRecord:
    """As `ml.catalog.held_drops.reject`."""
    return held_drops.reject(ctx.engine, ctx.labels, ctx.store, drop, actor=actor, reason=reason)


def _places(ctx: Context, drop_id: str, keys: set[str]) -> dict[str, dict[str, Any]]:
    """Key → where the image's bytes are until the drop is finished: `key`, `object`, `offset` and `size` in bytes."""
    places: dict[str, dict[str, Any]] = {}
    try:
        with row_verdicts.open_stored(ctx, drop_id) as verdicts:
            for verdict in ("good", "duplicate"):
                table = verdicts.columns(verdict, ("key", "chunk", "packed", "bytes"))
                chosen = table.filter(pc.is_in(table["key"], pc.cast(sorted(keys), "string")))
                for row in chosen.filter(pc.is_valid(chosen["packed"])).to_pylist():
                    offset = row["packed"] + tar_members.HEADER
                    tar = staging_tars.key(drop_id, row["chunk"])
                    places[row["key"]] = {"key": row["key"], "object": tar, "offset": offset, "size": row["bytes"]}
    except NotFoundError:  # not validated yet: findings are shown without pictures
        return {}
    return places
