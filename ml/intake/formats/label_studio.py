"""Label Studio's JSON export: tasks with choices, by any number of annotators."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ml.errors import InvalidInputError
from ml.intake.formats.entry import Entry
from ml.intake.formats.json_exports import candidates, exports, required
from ml.intake.formats.rows import Get, Names, Row, entries, time
from ml.intake.listing import Listing


def found(listing: Listing, get: Get) -> bool:
    return bool(exports(listing, get, _fits))


def read(listing: Listing, get: Get) -> list[Entry]:
    """Predictions, drafts and cancelled annotations do not count; of one annotator the last does.

    Raises:
        InvalidInputError: it is no such export, or its annotations are boxes, polygons or texts only.
    """
    own = required(listing, get, _fits, "Label Studio")
    names = Names(listing, candidates(listing))
    rows = [row for body in own.values() for task in body for row in _task(task, names)]
    if rows and all(row.problem for row in rows):
        raise InvalidInputError(f"{', '.join(own)} holds no usable choice: {rows[0].problem}")
    return entries(rows, listing, " and ".join(own), set(candidates(listing)))


def _fits(body: Any) -> bool:
    return (
        isinstance(body, list)
        and bool(body)
        and all(isinstance(t, dict) and isinstance(t.get("data"), dict) and "annotations" in t for t in body)
    )


def _task(task: dict[str, Any], names: Names) -> Iterator[Row]:
    file = _file(task["data"], names)
    said = task["annotations"] if isinstance(task["annotations"], list) else []
    counted = [a for a in said if isinstance(a, dict) and not a.get("was_cancelled")]
    for annotation in counted:
        yield _annotation(file, annotation)
    if not counted:
        yield Row(file)


def _annotation(file: str, annotation: dict[str, Any]) -> Row:
    results = [r for r in annotation.get("result") or () if isinstance(r, dict)]
    kinds = sorted({str(r.get("type")) for r in results} - {"choices"})
    if kinds:
        return Row(file, problem=f"it is annotated with {', '.join(kinds)}; one choice an image is needed")
    chosen = [str(c) for r in results for c in (r.get("value") or {}).get("choices") or ()]
    if len(set(chosen)) > 1:
        return Row(file, problem=f"it has several labels ({', '.join(chosen)}); one is needed")
    try:
        when = time(annotation.get("updated_at") or annotation.get("created_at"))
    except (ValueError, OverflowError, TypeError):
        when = None
    label = " ".join(chosen[0].split()) if chosen else None
    return Row(file, label, _who(annotation.get("completed_by")), labelled_at=when)


def _who(told: Any) -> str | None:
    if isinstance(told, dict):
        return str(told.get("email") or told.get("id") or "") or None
    return f"user {told}" if told is not None else None


def _file(data: dict[str, Any], names: Names) -> str:
    """The drop's file that a task's image is, whatever server it was shown from."""
    told = data.get("image") or next((v for v in data.values() if isinstance(v, str) and "/" in v), None)
    if not isinstance(told, str):
        return "(a task without an image)"
    url = urlsplit(told)
    shown = parse_qs(url.query).get("d", [unquote(url.path)])[0].lstrip("/")
    found = names.find(shown)
    if found == shown:  # uploads get eight hexadecimal digits before their name
        head, slash, name = shown.rpartition("/")
        _, dash, original = name.partition("-")
        bare = names.find(f"{head}{slash}{original}") if dash else found
        found = bare if bare != f"{head}{slash}{original}" else shown
    return found
