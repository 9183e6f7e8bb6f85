"""COCO JSON with one category per image; boxes and masks are rejected."""

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
    """Files of other tasks, such as detection, are skipped if another file has image labels.

    Raises:
        InvalidInputError: all annotations are boxes or masks.
    """
    label_files = required(listing, get, _fits, "COCO")
    usable = {
        key: body for key, body in label_files.items() if not any(_is_shape(a) for a in _dicts(body["annotations"]))
    }
    if not usable:
        raise InvalidInputError(f"{', '.join(label_files)} holds boxes or masks; one category per image is needed")
    files = FileIndex(listing, candidates(listing))
    rows = [row for body in usable.values() for row in _rows(body, files)]
    return entries(rows, listing, " and ".join(usable), set(candidates(listing)))


def _fits(body: Any) -> bool:
    return isinstance(body, dict) and all(
        isinstance(body.get(k), list) for k in ("images", "annotations", "categories")
    )


def _rows(body: dict[str, Any], files: FileIndex) -> Iterator[Row]:
    categories = {c.get("id"): str(c.get("name")) for c in _dicts(body["categories"]) if _is_id(c.get("id"))}
    labels: dict[Any, list[str]] = {}
    for annotation in _dicts(body["annotations"]):
        image, category = annotation.get("image_id"), annotation.get("category_id")
        if _is_id(image):
            name = categories.get(category) if _is_id(category) else None
            labels.setdefault(image, []).append(name or f"category {category}")
    for image in _dicts(body["images"]):
        image_id = image.get("id")
        image_labels = list(dict.fromkeys(labels.get(image_id, ()) if _is_id(image_id) else ()))
        file = files.find(str(image.get("file_name") or ""))
        if len(image_labels) > 1:
            yield Row(file, problem=f"it has several labels ({', '.join(image_labels)}); one is needed")
        else:
            yield Row(file, image_labels[0] if image_labels else None)


def _is_shape(annotation: dict[str, Any]) -> bool:
    return any(annotation.get(k) for k in ("bbox", "segmentation", "keypoints"))


def _dicts(rows: list[Any]) -> Iterator[dict[str, Any]]:
    return (row for row in rows if isinstance(row, dict))


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str)
