"""Finds the JSON files of an annotation tool's export."""

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from ml.errors import InvalidInputError
from ml.intake.formats.rows import Get, contents, parse_json
from ml.intake.listing import Listing


def exports(listing: Listing, get: Get, fits: Callable[[Any], bool]) -> dict[str, Any]:
    """Contents by key of the JSON files at the top, in ``annotations/`` and in split folders that `fits` accepts."""
    bodies = {}
    for key in candidates(listing):
        try:
            body = parse_json(contents(listing, get, key), key)
        except InvalidInputError:
            continue
        if fits(body):
            bodies[key] = body
    return bodies


def required(listing: Listing, get: Get, fits: Callable[[Any], bool], tool: str) -> dict[str, Any]:
    """As `exports`; raises InvalidInputError if there is none."""
    if bodies := exports(listing, get, fits):
        return bodies
    raise InvalidInputError(f"no JSON file of the drop is an export of {tool}; read {candidates(listing)}")


def candidates(listing: Listing) -> list[str]:
    """JSON files that may be exports; none if there are too many to read: those are not an export."""
    keys = [f.key for f in listing.files if f.key.endswith(".json") and _is_export_path(PurePosixPath(f.key))]
    return keys if len(keys) <= 20 else []


def _is_export_path(path: PurePosixPath) -> bool:
    return len(path.parts) == 1 or (len(path.parts) == 2 and (path.parts[0] == "annotations" or path.name[0] == "_"))
