"""From what a labels file says, row by row, to one entry for each image of the drop."""

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
LARGEST: Final = 512_000_000
"""Bytes of a labels file; more would not fit into a worker beside what it becomes."""


@dataclass(frozen=True)
class Row:
    """What one line says of one file, which it names relative to the drop."""

    file: str
    label: str | None = None
    annotator: str | None = None
    confidence: float | None = None
    labelled_at: datetime | None = None
    subject: str | None = None
    problem: str | None = None


def entries(rows: Iterable[Row], listing: Listing, source: str, own: Collection[str]) -> list[Entry]:
    """An entry for each file that a row names and for each that none names, in key order.

    Several annotators of one file are merged by majority; where they tie, or where nobody in particular
    says two things, the file has no label and its problem says why.

    Args:
        rows: what was read.
        listing: the drop.
        source: the labels file's name, for messages.
        own: keys of the format's own files, which are no images.
    """
    files = {f.key for f in listing.files if f.key not in own and not is_hidden(f.key)}
    by_key: dict[str, list[Row]] = {}
    for row in rows:
        by_key.setdefault(row.file.strip().removeprefix("./"), []).append(row)
    named = [_entry(key, said, files, source) for key, said in by_key.items()]
    unnamed = [Entry(key, None, problem=f"no row in {source} names it") for key in files - by_key.keys()]
    return sorted([*named, *unnamed], key=lambda e: e.key)


def _entry(key: str, said: list[Row], files: Collection[str], source: str) -> Entry:
    path = PurePosixPath(key)
    if path.is_absolute() or ".." in path.parts:
        return Entry(key, None, problem=f"{source} names a path outside the drop")
    if key not in files:
        return Entry(key, None, problem=f"{source} names it, but the drop has no such file")
    if problem := next((row.problem for row in said if row.problem), None):
        return Entry(key, None, problem=problem)
    subject = next((row.subject for row in said if row.subject), None)
    latest = {row.annotator: row for row in said if row.label}
    if len({row.label for row in said if row.label and not row.annotator}) > 1:
        both = " and ".join(dict.fromkeys(str(row.label) for row in said if row.label))
        return Entry(key, None, problem=f"{source} gives it two labels: {both}", subject=subject)
    if not latest:
        return Entry(key, None, subject=subject)
    votes = Counter(str(row.label) for row in latest.values()).most_common(2)
    if len(votes) > 1 and votes[0][1] == votes[1][1]:
        words = ", ".join(f"{row.annotator or 'nobody'} says {row.label}" for row in latest.values())
        return Entry(key, None, problem=f"annotators disagree: {words}", subject=subject)
    label = votes[0][0]
    mine = next(row for row in latest.values() if row.label == label)
    others = tuple(
        Annotation(str(row.label), row.annotator, row.confidence, row.labelled_at)
        for row in latest.values()
        if row is not mine
    )
    return Entry(key, label, mine.annotator, mine.confidence, mine.labelled_at, others=others, subject=subject)


def from_mapping(row: Mapping[str, Any], source: str, file: str = "file") -> Row:
    """A row of a table with the columns of `labels_csv`; `file` is the name of the one with the file."""
    key, label = text(row.get(file)) or "", text(row.get("label"))
    try:
        return Row(
            key,
            label,
            text(row.get("annotator")),
            number(row.get("confidence")),
            time(row.get("labelled_at")),
            text(row.get("subject")),
        )
    except (ValueError, OverflowError, TypeError) as error:
        return Row(key, problem=f"its row in {source} cannot be read: {error}")


def text(value: object) -> str | None:
    return (str(value).strip() or None) if value is not None else None


def number(value: object) -> float | None:
    if value is None or not str(value).strip():
        return None
    found = float(str(value))
    if not math.isfinite(found):
        raise ValueError(f"the confidence must be a finite number; found {value}")
    return found


def time(value: object) -> datetime | None:
    """In UTC; a time without a zone is taken as UTC."""
    if value is None or not str(value).strip():
        return None
    found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip())
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)


def contents(listing: Listing, get: Get, key: str) -> bytes:
    """A labels file's bytes.

    Raises:
        InvalidInputError: it is larger than `LARGEST`.
    """
    size = next((f.size for f in listing.files if f.key == key), 0)
    if size > LARGEST:
        raise InvalidInputError(f"{key} has {size} bytes, at most {LARGEST} are read; split the drop")
    return get(key)


def parsed(data: bytes, key: str) -> Any:
    """JSON; raises InvalidInputError for anything else."""
    try:
        return orjson.loads(data.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        raise InvalidInputError(f"{key} is no JSON: {error}") from error


def lines(data: bytes, key: str) -> list[dict[str, Any]]:
    """JSON lines, each an object; raises InvalidInputError naming the first line that is none."""
    found = []
    for position, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        if line.strip():
            row = parsed(line, f"{key}, line {position},")
            if not isinstance(row, dict):
                raise InvalidInputError(f"{key}, line {position}, must be a JSON object; found {line[:60]!r}")
            found.append(row)
    return found


class Names:
    """Files of a drop by what an export calls them: another folder, another server, a prefix of its own."""

    def __init__(self, listing: Listing, own: Collection[str] = ()) -> None:
        self._by_name: dict[str, list[str]] = {}
        for file in listing.files:
            if file.key not in own and not is_hidden(file.key):
                self._by_name.setdefault(PurePosixPath(file.key).name, []).append(file.key)

    def find(self, reference: str, *, stem: bool = False) -> str:
        """The only file that `reference` can mean, the one whose path agrees longest; else `reference` itself.

        Args:
            reference: a path or URL.
            stem: it has no extension.
        """
        path = PurePosixPath(reference)
        if stem:
            named = [k for keys in self._by_name.values() for k in keys if PurePosixPath(k).stem == path.name]
        else:
            named = self._by_name.get(path.name, [])
        ranked = sorted(((_shared(path, PurePosixPath(k), stem), k) for k in named), reverse=True)
        if not ranked or (len(ranked) > 1 and ranked[0][0] == ranked[1][0]):
            return reference
        return ranked[0][1]


def _shared(one: PurePosixPath, other: PurePosixPath, stem: bool) -> int:
    """How many trailing parts agree."""
    right = (*other.parts[:-1], other.stem) if stem else other.parts
    count = 0
    for a, b in zip(reversed(one.parts), reversed(right), strict=False):
        if a != b:
            break
        count += 1
    return count
