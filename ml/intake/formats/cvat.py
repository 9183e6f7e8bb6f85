"""CVAT's ``annotations.xml`` with image tags; boxes and other shapes are rejected."""

from collections.abc import Iterator
from typing import Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from ml.errors import InvalidInputError
from ml.intake.formats.entry import Entry
from ml.intake.formats.rows import FileIndex, Get, Row, contents, entries
from ml.intake.listing import Listing

NAME = "annotations.xml"
_SHAPES: Final = ("box", "polygon", "polyline", "points", "ellipse", "cuboid", "mask", "skeleton")


def matches(listing: Listing, get: Get) -> bool:
    del get
    return any(f.key == NAME for f in listing.files)


def read(listing: Listing, get: Get) -> list[Entry]:
    """Raises InvalidInputError if the XML is invalid, and if all annotations are shapes."""
    root = _parse(contents(listing, get, NAME))
    files = FileIndex(listing, {NAME})
    rows = [_row(image, files) for image in _images(root)]
    if rows and all(row.problem for row in rows):
        raise InvalidInputError(f"{NAME} holds no usable tag: {rows[0].problem}")
    return entries(rows, listing, NAME, {NAME})


def _parse(data: bytes) -> Element:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{NAME} is not UTF-8: {error}") from error
    # Entities can expand without bound and read files; CVAT writes none.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InvalidInputError(f"{NAME} declares a document type or entities, which no export of CVAT does")
    try:
        return ElementTree.fromstring(text.encode())  # noqa: S314 - declares no entities
    except ElementTree.ParseError as error:
        raise InvalidInputError(f"{NAME} is not valid XML: {error}") from error


def _images(root: Element) -> Iterator[Element]:
    return root.iter("image")


def _row(image: Element, files: FileIndex) -> Row:
    file = files.find(image.get("name") or "")
    if shapes := [kind for kind in _SHAPES if image.find(kind) is not None]:
        return Row(file, problem=f"it is annotated with {', '.join(shapes)}; one tag per image is needed")
    tags = list(dict.fromkeys(tag.get("label") or "" for tag in image.findall("tag")))
    if len(tags) > 1:
        return Row(file, problem=f"it has several labels ({', '.join(tags)}); one is needed")
    return Row(file, tags[0] if tags and tags[0] else None)
