"""CVAT's ``annotations.xml`` with image tags; boxes and other shapes are refused."""

from collections.abc import Iterator
from typing import Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from ml.errors import InvalidInputError
from ml.intake.formats.entry import Entry
from ml.intake.formats.rows import Get, Names, Row, contents, entries
from ml.intake.listing import Listing

NAME = "annotations.xml"
_SHAPES: Final = ("box", "polygon", "polyline", "points", "ellipse", "cuboid", "mask", "skeleton")


def found(listing: Listing, get: Get) -> bool:
    del get
    return any(f.key == NAME for f in listing.files)


def read(listing: Listing, get: Get) -> list[Entry]:
    """Raises InvalidInputError for what is no such XML, and when all annotations are shapes."""
    root = _parsed(contents(listing, get, NAME))
    names = Names(listing, {NAME})
    rows = [_row(image, names) for image in _images(root)]
    if rows and all(row.problem for row in rows):
        raise InvalidInputError(f"{NAME} holds no usable tag: {rows[0].problem}")
    return entries(rows, listing, NAME, {NAME})


def _parsed(data: bytes) -> Element:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{NAME} is not UTF-8: {error}") from error
    # Entities can be nested to any size, and can name files; CVAT writes none.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InvalidInputError(f"{NAME} declares a document type or entities, which no export of CVAT does")
    try:
        return ElementTree.fromstring(text.encode())  # noqa: S314 - without entities there is nothing to expand
    except ElementTree.ParseError as error:
        raise InvalidInputError(f"{NAME} is no XML: {error}") from error


def _images(root: Element) -> Iterator[Element]:
    return root.iter("image")


def _row(image: Element, names: Names) -> Row:
    file = names.find(image.get("name") or "")
    if shapes := [kind for kind in _SHAPES if image.find(kind) is not None]:
        return Row(file, problem=f"it is annotated with {', '.join(shapes)}; one tag an image is needed")
    tags = list(dict.fromkeys(tag.get("label") or "" for tag in image.findall("tag")))
    if len(tags) > 1:
        return Row(file, problem=f"it has several labels ({', '.join(tags)}); one is needed")
    return Row(file, tags[0] if tags and tags[0] else None)
