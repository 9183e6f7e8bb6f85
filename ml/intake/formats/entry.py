"""The common result of all formats: one entry per image."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Annotation:
    """One annotator's label of an image; the time is in UTC."""

    label: str
    annotator: str | None = None
    confidence: float | None = None
    labelled_at: datetime | None = None


@dataclass(frozen=True)
class Entry:
    """An image of a drop, with its annotations.

    Attributes:
        key: relative to the drop's prefix; for a member of an archive, as if it had been unpacked beside the archive.
        label: None if there is none.
        problem: why the entry cannot be used, if so.
        others: further annotations, if there were several annotators; `label` and the fields after it hold
            the majority's.
        subject: who or what is shown, if the drop says so; for erasing a person's images.
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
    """Whether a file was left by an operating system or tool: ``.DS_Store``, ``Thumbs.db``, ``__MACOSX/…``."""
    parts = key.split("/")
    names = (p for p in parts if p not in (".", ".."))  # path traversal is not hidden but reported
    return any(p.startswith((".", "__MACOSX")) for p in names) or parts[-1] in {"Thumbs.db", "desktop.ini"}
