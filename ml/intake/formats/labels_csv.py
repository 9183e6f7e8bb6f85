"""`labels.csv`: columns ``file`` and ``label``, optional ``annotator``, ``labelled_at`` (ISO 8601), ``confidence``."""

import csv
import io
from collections.abc import Callable
from datetime import datetime
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
    rows = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    missing = _REQUIRED - {(name or "").strip() for name in rows.fieldnames or ()}
    if missing:
        raise InvalidInputError(f"{NAME} lacks the column {' and '.join(sorted(missing))}; found {rows.fieldnames}")
    files = {f.key for f in listing.files if f.key != NAME and not is_hidden(f.key)}
    entries: dict[str, Entry] = {}
    for row in rows:
        entry = _entry({(k or "").strip(): v for k, v in row.items() if isinstance(v, str | None)}, files)
        earlier = entries.get(entry.key)
        if earlier is not None and earlier.label != entry.label:
            entry = Entry(entry.key, None, problem=f"{NAME} gives it two labels: {earlier.label} and {entry.label}")
        entries[entry.key] = entry
    unnamed = [Entry(key, None, problem=f"no row in {NAME} names it") for key in files - entries.keys()]
    return sorted([*entries.values(), *unnamed], key=lambda e: e.key)


def _entry(row: dict[str, str | None], files: set[str]) -> Entry:
    key, label = (row.get("file") or "").strip(), (row.get("label") or "").strip()
    path = PurePosixPath(key)
    if path.is_absolute() or ".." in path.parts:
        return Entry(key, None, problem=f"{NAME} names a path outside the drop")
    if key not in files:
        return Entry(key, None, problem=f"{NAME} names it, but the drop has no such file")
    try:
        confidence = float(told) if (told := row.get("confidence")) else None
        labelled_at = datetime.fromisoformat(when) if (when := row.get("labelled_at")) else None
    except ValueError as error:
        return Entry(key, None, problem=f"its row in {NAME} cannot be read: {error}")
    return Entry(key, label or None, row.get("annotator") or None, confidence, labelled_at)
