"""What every format gives: one entry for each image it knows of."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Annotation:
    """What one annotator said of an image; the time is in UTC."""

    label: str
    annotator: str | None = None
    confidence: float | None = None
    labelled_at: datetime | None = None


@dataclass(frozen=True)
class Entry:
    """An image of a drop and what was said about it.

    Attributes:
        key: relative to the drop's prefix; of a file inside an archive as if it had been unpacked where it lies.
        label: None when nobody gave one; `problem` then says why it cannot be used.
        others: what further annotators said, if several did; `label` and the fields beside it are the
            drop's own answer.
        subject: who or what is pictured, where the drop tells; for erasing a person's images.
    """

    key: str
    label: str | None
    annotator: str | None = None
    confidence: float | None = None
    labelled_at: datetime | None = None
    problem: str | None = None
    others: tuple[Annotation, ...] = ()
    subject: str | None = None


def is_hidden(key: str) -> bool:
    """Left by operating systems and tools, never an image: ``.DS_Store``, ``Thumbs.db``, ``__MACOSX/…``."""
    parts = key.split("/")
    named = (p for p in parts if p not in (".", ".."))  # a name of only dots is a trick, which is told
    return any(p.startswith((".", "__MACOSX")) for p in named) or parts[-1] in {"Thumbs.db", "desktop.ini"}
