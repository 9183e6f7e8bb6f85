"""Label Studio JSON export: tasks with choices, by any number of annotators."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ml.errors import InvalidInputError
from ml.intake.formats.entry import Entry
from ml.intake.formats.json_exports import candidates, exports, required
from ml.intake.formats.rows import FileIndex, Get, Row, entries, parse_time
from ml.intake.listing import Listing


def matches(listing: Listing, get: Get) -> bool:
    return bool(exports(listing, get, _fits))


def read(listing: Listing, get: Get) -> list[Entry]:
    """Predictions, drafts and cancelled annotations are ignored; of one annotator the last annotation counts.

    Raises:
        InvalidInputError: it is not such an export, or its annotations are only boxes, polygons or texts.
    """
    label_files = required(listing, get, _fits, "Label Studio")
    files = FileIndex(listing, candidates(listing))
    rows = [row for body in label_files.values() for task in body for row in _task(task, files)]
    if rows and all(row.problem for row in rows):
        raise InvalidInputError(f"{', '.join(label_files)} holds no usable choice: {rows[0].problem}")
    return entries(rows, listing, " and ".join(label_files), set(candidates(listing)))


def _fits(body: Any) -> bool:
    return (
        isinstance(body, list)
        and bool(body)
        and all(isinstance(t, dict) and isinstance(t.get("data"), dict) and "annotations" in t for t in body)
    )


def _task(task: dict[str, Any], files: FileIndex) -> Iterator[Row]:
    file = _file(task["data"], files)
    annotations = task["annotations"] if isinstance(task["annotations"], list) else []
    completed = [a for a in annotations if isinstance(a, dict) and not a.get("was_cancelled")]
    for annotation in completed:
        yield _annotation(file, annotation)
    if not completed:
        yield Row(file)


def _annotation(file: str, annotation: dict[str, Any]) -> Row:
    results = [r for r in annotation.get("result") or () if isinstance(r, dict)]
    kinds = sorted({str(r.get("type")) for r in results} - {"choices"})
    if kinds:
        return Row(file, problem=f"it is annotated with {', '.join(kinds)}; one choice per image is needed")
    chosen = [str(c) for r in results for c in (r.get("value") or {}).get("choices") or ()]
    if len(set(chosen)) > 1:
        return Row(file, problem=f"it has several labels ({', '.join(chosen)}); one is needed")
    try:
        labelled_at = parse_time(annotation.get("updated_at") or annotation.get("created_at"))
    except (ValueError, OverflowError, TypeError):
        labelled_at = None
    label = " ".join(chosen[0].split()) if chosen else None
    return Row(file, label, _annotator(annotation.get("completed_by")), labelled_at=labelled_at)


def _annotator(user: Any) -> str | None:
    if isinstance(user, dict):
        return str(user.get("email") or user.get("id") or "") or None
    return f"user {user}" if user is not None else None


def _file(data: dict[str, Any], files: FileIndex) -> str:
    """The file of the drop that is a task's image, whichever server the task refers to."""
    reference = data.get("image") or next((v for v in data.values() if isinstance(v, str) and "/" in v), None)
    if not isinstance(reference, str):
        return "(a task without an image)"
    url = urlsplit(reference)
    path = parse_qs(url.query).get("d", [unquote(url.path)])[0].lstrip("/")
    key = files.find(path)
    if key != path:
        return key
    # Label Studio puts eight hexadecimal digits before the files of uploaded files.
    folder, slash, name = path.rpartition("/")
    _, dash, original_name = name.partition("-")
    original_path = f"{folder}{slash}{original_name}"
    key = files.find(original_path) if dash else path
    return key if key != original_path else path
