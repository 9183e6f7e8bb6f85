"""`labels.csv`: columns ``file`` and ``label``, optional ``annotator``, ``labelled_at`` (ISO 8601), ``confidence``."""

import csv
import io
import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import PurePosixPath

from ml.errors import InvalidInputError
from ml.intake.formats.entry import Entry, is_hidden
from ml.intake.listing import Listing

NAME = "labels.csv"
_REQUIRED = {"file", "label"}


def found(listing: Listing) -> bool:
    return any(f.key == NAME for f in listing.files)


def read(listing: Listing, get: Callable[[str], bytes]) -> list[Entry]:
    """An entry for each row and for each file that no row names.

    Raises:
        InvalidInputError: the table is not UTF-8 CSV or lacks a required column.
    """
    try:
        text = get(NAME).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{NAME} is not UTF-8: {error}; save it as UTF-8") from error
    files = {f.key for f in listing.files if f.key != NAME and not is_hidden(f.key)}
    entries: dict[str, Entry] = {}
    for row in _rows(text):
        entry = _entry(row, files)
        earlier = entries.setdefault(entry.key, entry)
        if earlier.label != entry.label and not earlier.problem:
            words = f"{NAME} gives it two labels: {earlier.label} and {entry.label}"
            entries[entry.key] = Entry(entry.key, None, problem=words)
    unnamed = [Entry(key, None, problem=f"no row in {NAME} names it") for key in files - entries.keys()]
    return sorted([*entries.values(), *unnamed], key=lambda e: e.key)


def _rows(text: str) -> list[dict[str, str | None]]:
    table = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    try:
        missing = _REQUIRED - {(name or "").strip() for name in table.fieldnames or ()}
        if missing:
            named = " and ".join(sorted(missing))
            raise InvalidInputError(f"{NAME} lacks the column {named}; found {table.fieldnames}")
        return [{(k or "").strip(): v for k, v in row.items() if isinstance(v, str | None)} for row in table]
    except csv.Error as error:
        raise InvalidInputError(f"{NAME} is no CSV from line {table.line_num} on: {error}") from error


def _entry(row: dict[str, str | None], files: set[str]) -> Entry:
    key, label = (row.get("file") or "").strip().removeprefix("./"), (row.get("label") or "").strip()
    path = PurePosixPath(key)
    if path.is_absolute() or ".." in path.parts:
        return Entry(key, None, problem=f"{NAME} names a path outside the drop")
    if key not in files:
        return Entry(key, None, problem=f"{NAME} names it, but the drop has no such file")
    try:
        confidence, labelled_at = _confidence(row.get("confidence")), _time(row.get("labelled_at"))
    except (ValueError, OverflowError) as error:
        return Entry(key, None, problem=f"its row in {NAME} cannot be read: {error}")
    return Entry(key, label or None, row.get("annotator") or None, confidence, labelled_at)


def _confidence(text: str | None) -> float | None:
    if not text or not text.strip():
        return None
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the confidence must be a finite number; found {text}")
    return value


def _time(text: str | None) -> datetime | None:
    """In UTC; a time without a zone is taken as UTC."""
    if not text or not text.strip():
        return None
    value = datetime.fromisoformat(text.strip())
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)
