"""Converts the rows of a labels file to one entry per image of the drop."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, Final

import orjson

from ml.errors import InvalidInputError
from ml.intake.formats.entry import Annotation, Entry, is_hidden
from ml.intake.listing import Listing

Get = Callable[[str], bytes]
MAX_BYTES: Final = 512_000_000
"""Bytes of a labels file; a larger one and its parsed rows would not fit into a worker's memory."""


@dataclass(frozen=True)
class Row:
    """One row of a labels file; `file` is relative to the drop."""

    file: str
    label: str | None = None
    annotator: str | None = None
    confidence: float | None = None
    labelled_at: datetime | None = None
    subject: str | None = None
    problem: str | None = None


def entries(rows: Iterable[Row], listing: Listing, source: str, label_files: Collection[str]) -> list[Entry]:
    """An entry for each file that a row names, and for each remaining file, in key order.

    Several annotators of one file are merged by majority; if they tie, or if rows without annotator
    contradict each other, the file has no label and its problem says why.

    Args:
        rows: of the labels files.
        listing: the drop.
        source: the labels file's name, for messages.
        label_files: keys of files of the format that are not images.
    """
    files = {f.key for f in listing.files if f.key not in label_files and not is_hidden(f.key)}
    by_key: dict[str, list[Row]] = {}
    for row in rows:
        by_key.setdefault(row.file.strip().removeprefix("./"), []).append(row)
    listed = [_entry(key, file_rows, files, source) for key, file_rows in by_key.items()]
    unlisted = [Entry(key, None, problem=f"no row in {source} names it") for key in files - by_key.keys()]
    return sorted([*listed, *unlisted], key=lambda e: e.key)


def _entry(key: str, rows: list[Row], files: Collection[str], source: str) -> Entry:
    path = PurePosixPath(key)
    if path.is_absolute() or ".." in path.parts:
        return Entry(key, None, problem=f"{source} names a path outside the drop")
    if key not in files:
        return Entry(key, None, problem=f"{source} names it, but the drop has no such file")
    if problem := next((row.problem for row in rows if row.problem), None):
        return Entry(key, None, problem=problem)
    subject = next((row.subject for row in rows if row.subject), None)
    latest = {row.annotator: row for row in rows if row.label}
    if len({row.label for row in rows if row.label and not row.annotator}) > 1:
        labels = " and ".join(dict.fromkeys(str(row.label) for row in rows if row.label))
        return Entry(key, None, problem=f"{source} gives it two labels: {labels}", subject=subject)
    if not latest:
        return Entry(key, None, subject=subject)
    votes = Counter(str(row.label) for row in latest.values()).most_common(2)
    if len(votes) > 1 and votes[0][1] == votes[1][1]:
        votes_text = ", ".join(f"{row.annotator or 'nobody'} says {row.label}" for row in latest.values())
        return Entry(key, None, problem=f"annotators disagree: {votes_text}", subject=subject)
    label = votes[0][0]
    majority_row = next(row for row in latest.values() if row.label == label)
    others = tuple(
        Annotation(str(row.label), row.annotator, row.confidence, row.labelled_at)
        for row in latest.values()
        if row is not majority_row
    )
    return Entry(
        key,
        label,
        majority_row.annotator,
        majority_row.confidence,
        majority_row.labelled_at,
        others=others,
        subject=subject,
    )


def row_from_mapping(row: Mapping[str, Any], source: str, file_column: str = "file") -> Row:
    """A row of a table with the columns of `labels_csv`."""
    key, label = _text(row.get(file_column)) or "", _text(row.get("label"))
    try:
        return Row(
            key,
            label,
            _text(row.get("annotator")),
            _number(row.get("confidence")),
            parse_time(row.get("labelled_at")),
            _text(row.get("subject")),
        )
    except (ValueError, OverflowError, TypeError) as error:
        return Row(key, problem=f"its row in {source} cannot be read: {error}")


def _text(value: object) -> str | None:
    return (str(value).strip() or None) if value is not None else None


def _number(value: object) -> float | None:
    if value is None or not str(value).strip():
        return None
    number = float(str(value))
    if not math.isfinite(number):
        raise ValueError(f"the confidence must be a finite number; found {value}")
    return number


def parse_time(value: object) -> datetime | None:
    """Parse to UTC; a time without a zone is taken as UTC."""
    if value is None or not str(value).strip():
        return None
    parsed = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip())
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)


def contents(listing: Listing, get: Get, key: str) -> bytes:
    """The bytes of a labels file.

    Raises:
        InvalidInputError: it is larger than `MAX_BYTES`.
    """
    size = next((f.size for f in listing.files if f.key == key), 0)
    if size > MAX_BYTES:
        raise InvalidInputError(f"{key} has {size} bytes, at most {MAX_BYTES} are read; split the drop")
    return get(key)


def parse_json(data: bytes, key: str) -> Any:
    """Parse JSON; raises InvalidInputError if it is invalid."""
    try:
        return orjson.loads(data.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        raise InvalidInputError(f"{key} is not valid JSON: {error}") from error


def json_lines(data: bytes, key: str) -> list[dict[str, Any]]:
    """Parse JSON Lines of objects; raises InvalidInputError that names the first invalid line."""
    rows = []
    for position, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        if line.strip():
            row = parse_json(line, f"{key}, line {position},")
            if not isinstance(row, dict):
                raise InvalidInputError(f"{key}, line {position}, must be a JSON object; found {line[:60]!r}")
            rows.append(row)
    return rows


class FileIndex:
    """Finds files of a drop by the references of an export, which may name other folders or servers."""

    def __init__(self, listing: Listing, label_files: Collection[str] = ()) -> None:
        self._by_name: dict[str, list[str]] = {}
        for file in listing.files:
            if file.key not in label_files and not is_hidden(file.key):
                self._by_name.setdefault(PurePosixPath(file.key).name, []).append(file.key)

    def find(self, reference: str, *, stem: bool = False) -> str:
        """The key of the file with the longest common path suffix; `reference` itself if none or several match.

        Args:
            reference: a path or URL.
            stem: `reference` has no file extension.
        """
        path = PurePosixPath(reference)
        if stem:
            candidates = [k for keys in self._by_name.values() for k in keys if PurePosixPath(k).stem == path.name]
        else:
            candidates = self._by_name.get(path.name, [])
        ranked = sorted(((_common_suffix_length(path, PurePosixPath(k), stem), k) for k in candidates), reverse=True)
        if not ranked or (len(ranked) > 1 and ranked[0][0] == ranked[1][0]):
            return reference
        return ranked[0][1]


def _common_suffix_length(reference: PurePosixPath, key: PurePosixPath, stem: bool) -> int:
    """The number of equal trailing parts."""
    key_parts = (*key.parts[:-1], key.stem) if stem else key.parts
    count = 0
    for a, b in zip(reversed(reference.parts), reversed(key_parts), strict=False):
        if a != b:
            break
        count += 1
    return count
