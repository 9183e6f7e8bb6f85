"""What every format gives: one entry for each image it knows of."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Entry:
    """An image of a drop and what was said about it.

    Attributes:
        key: relative to the drop's prefix.
        label: None when nobody gave one; `problem` then says why it cannot be used.
    """

    key: str
    label: str | None
    annotator: str | None = None
    confidence: float | None = None
    labelled_at: datetime | None = None
    problem: str | None = None


def is_hidden(key: str) -> bool:
    """Left by operating systems and tools, never an image: ``.DS_Store``, ``Thumbs.db``, ``__MACOSX/…``."""
    parts = key.split("/")
    return any(p.startswith((".", "__MACOSX")) for p in parts) or parts[-1] in {"Thumbs.db", "desktop.ini"}
