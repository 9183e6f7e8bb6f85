"""Names of classes: how they are written, which are allowed, and which mean the same class.

Intake and the service apply the same rules, so that a label that one refuses is not accepted by the other.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

PATTERN: Final = r"^[^\x00-\x1f/\\]{1,200}$"
"""What a label must match; the suite `expectations/images.yml` has the same expression."""

_ALLOWED: Final = re.compile(PATTERN.removesuffix("$") + r"\Z")
_NUMBER_MARK: Final = re.compile(r"(?<=\d)[.,](?=\d)|(?<!\w)[-+](?=\d)")
_SUGGESTIONS: Final = 3
_MOST_QUOTED: Final = 60


def normalised(label: str) -> str:
    """The label in Unicode's composed form (NFC), in which classes are compared and stored."""
    return unicodedata.normalize("NFC", label)


def problem(label: str) -> str | None:
    """Why a label in composed form cannot be the name of a class; None if it can."""
    if _ALLOWED.match(label):
        return None
    quoted = label if len(label) <= _MOST_QUOTED else f"{label[:_MOST_QUOTED]}…"
    return f"the label must have 1 to 200 characters, no slash and no control character; found {quoted!r}"


def near(label: str, classes: Iterable[str]) -> list[str]:
    """Classes that differ from the label only by case, spacing or punctuation, at most three.

    A name without letters and digits is near to none. The decimal mark and the sign of a number count: 1.0 is not 10.
    """
    folded = _fold(label)
    if not folded:
        return []
    return sorted(c for c in classes if c != label and _fold(c) == folded)[:_SUGGESTIONS]


def _fold(label: str) -> str:
    text = unicodedata.normalize("NFKC", label).casefold()
    marks = {match.start() for match in _NUMBER_MARK.finditer(text)}
    kept = "".join(c for i, c in enumerate(text) if i in marks or c.isalnum() or unicodedata.category(c)[0] == "M")
    return kept if any(c.isalnum() for c in kept) else ""
