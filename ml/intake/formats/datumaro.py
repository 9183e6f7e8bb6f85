"""Datumaro's JSON: ``annotations/<split>.json`` with a label per item; its splits are ignored."""

from collections.abc import Iterator
from typing import Any

from ml.errors import InvalidInputError
from ml.intake.formats.entry import Entry
from ml.intake.formats.json_exports import candidates, exports, required
from ml.intake.formats.rows import FileIndex, Get, Row, entries
from ml.intake.listing import Listing


def matches(listing: Listing, get: Get) -> bool:
    return bool(exports(listing, get, _fits))


def read(listing: Listing, get: Get) -> list[Entry]:
    """Raises InvalidInputError if items have only boxes, masks or points."""
    label_files = required(listing, get, _fits, "Datumaro")
    files = FileIndex(listing, candidates(listing))
    rows = [row for body in label_files.values() for row in _rows(body, files)]
    if rows and all(row.problem for row in rows):
        raise InvalidInputError(f"{', '.join(label_files)} holds no usable label: {rows[0].problem}")
    return entries(rows, listing, " and ".join(label_files), set(candidates(listing)))


def _fits(body: Any) -> bool:
    return isinstance(body, dict) and isinstance(body.get("items"), list) and isinstance(body.get("categories"), dict)


def _rows(body: dict[str, Any], files: FileIndex) -> Iterator[Row]:
    categories = (body["categories"].get("label") or {}).get("labels") or []
    classes = [str(c.get("name")) if isinstance(c, dict) else str(c) for c in categories]
    for item in body["items"]:
        if isinstance(item, dict):
            yield _item(item, classes, files)


def _item(item: dict[str, Any], classes: list[str], files: FileIndex) -> Row:
    image = item.get("image")
    path = image.get("path") if isinstance(image, dict) else None
    file = files.find(str(path)) if path else files.find(str(item.get("id")), stem=True)
    annotations = [a for a in item.get("annotations") or () if isinstance(a, dict)]
    numbers = list(dict.fromkeys(a.get("label_id") for a in annotations if a.get("type") == "label"))
    if kinds := sorted({str(a.get("type")) for a in annotations} - {"label"}):
        return Row(file, problem=f"it is annotated with {', '.join(kinds)}; one label per image is needed")
    labels = [classes[n] if isinstance(n, int) and 0 <= n < len(classes) else f"label {n}" for n in numbers]
    if len(labels) > 1:
        return Row(file, problem=f"it has several labels ({', '.join(labels)}); one is needed")
    return Row(file, labels[0] if labels else None)
