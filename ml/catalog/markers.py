"""The marker objects of a drop's folder, by which uploaders and intake tell each other the drop's state."""

from typing import Any, Final

import orjson

from ml.catalog.drops import DropRecord

READY: Final = "_READY"
INGESTED: Final = "_INGESTED"
REJECTED: Final = "_REJECTED"
HELD: Final = "_HELD"
MARKERS: Final = frozenset({READY, INGESTED, REJECTED, HELD})
NAME_BY_STATUS: Final = {"accepted": INGESTED, "rejected": REJECTED, "held": HELD}


def body(drop: DropRecord, hint: str | None = None) -> bytes:
    """The JSON of the marker for the drop's status.

    Args:
        drop: accepted, rejected or held.
        hint: the format that `_READY` named; a held drop needs it when it becomes ready again.
    """
    content: dict[str, Any] = {
        "drop_id": drop.id,
        "status": drop.status,
        "images": drop.images,
        "accepted": drop.accepted,
        "quarantined": drop.quarantined,
        "duplicates": drop.duplicates,
        "reason": drop.reason,
        "dataset_version": drop.dataset_version,
        "report_key": drop.report_key,
    }
    if drop.status == "held":
        content["findings"] = [{"kind": f["kind"], "message": f["message"]} for f in drop.findings if f["holds"]]
    if hint is not None:
        content["format"] = hint
    return orjson.dumps(content, option=orjson.OPT_INDENT_2)


def hint(marker: bytes) -> str | None:
    """The format that a marker names; any other content is ignored."""
    if not marker.strip():
        return None
    try:
        content = orjson.loads(marker)
    except orjson.JSONDecodeError:
        return None
    format_name = content.get("format") if isinstance(content, dict) else None
    return str(format_name) if format_name is not None else None


def staging_prefix(drop_id: str) -> str:
    """Prefix in our bucket of the drop's images between inspection and acceptance."""
    return f"drops/{drop_id}/packs/"
