"""COCO's JSON with one category an image; boxes and masks are refused."""

from collections.abc import Iterator
from typing import Any

from ml.errors import InvalidInputError
from ml.intake.formats.entry import Entry
from ml.intake.formats.json_exports import candidates, exports, required
from ml.intake.formats.rows import Get, Names, Row, entries
from ml.intake.listing import Listing


def found(listing: Listing, get: Get) -> bool:
    return bool(exports(listing, get, _fits))


def read(listing: Listing, get: Get) -> list[Entry]:
    """Files of other tasks beside them (boxes, say) are passed over where one has image labels.

    Raises:
        InvalidInputError: all annotations are boxes or masks.
    """
    own = required(listing, get, _fits, "COCO")
    plain = {key: body for key, body in own.items() if not any(_is_shape(a) for a in _dicts(body["annotations"]))}
    if not plain:
        raise InvalidInputError(f"{', '.join(own)} holds boxes or masks; one category an image is needed")
    names = Names(listing, candidates(listing))
    rows = [row for body in plain.values() for row in _rows(body, names)]
    return entries(rows, listing, " and ".join(plain), set(candidates(listing)))


def _fits(body: Any) -> bool:
    return isinstance(body, dict) and all(
        isinstance(body.get(k), list) for k in ("images", "annotations", "categories")
    )


def _rows(body: dict[str, Any], names: Names) -> Iterator[Row]:
    categories = {c.get("id"): str(c.get("name")) for c in _dicts(body["categories"]) if _key(c.get("id"))}
    labels: dict[Any, list[str]] = {}
    for annotation in _dicts(body["annotations"]):
        image, category = annotation.get("image_id"), annotation.get("category_id")
        if _key(image):
            known = categories.get(category) if _key(category) else None
            labels.setdefault(image, []).append(known or f"category {category}")
    for image in _dicts(body["images"]):
        number = image.get("id")
        said = list(dict.fromkeys(labels.get(number, ()) if _key(number) else ()))
        file = names.find(str(image.get("file_name") or ""))
        if len(said) > 1:
            yield Row(file, problem=f"it has several labels ({', '.join(said)}); one is needed")
        else:
            yield Row(file, said[0] if said else None)


def _is_shape(annotation: dict[str, Any]) -> bool:
    return any(annotation.get(k) for k in ("bbox", "segmentation", "keypoints"))


def _dicts(rows: list[Any]) -> Iterator[dict[str, Any]]:
    return (row for row in rows if isinstance(row, dict))


def _key(value: Any) -> bool:
    return isinstance(value, int | str)
