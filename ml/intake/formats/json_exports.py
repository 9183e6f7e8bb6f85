"""Where the JSON files of an export may lie, and which tool made them."""

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from ml.errors import InvalidInputError
from ml.intake.formats.rows import Get, contents, parsed
from ml.intake.listing import Listing


def exports(listing: Listing, get: Get, fits: Callable[[Any], bool]) -> dict[str, Any]:
    """Key → content of the JSON files at the top, in ``annotations/`` and in split folders that `fits` knows."""
    found = {}
    for key in candidates(listing):
        try:
            body = parsed(contents(listing, get, key), key)
        except InvalidInputError:
            continue
        if fits(body):
            found[key] = body
    return found


def required(listing: Listing, get: Get, fits: Callable[[Any], bool], tool: str) -> dict[str, Any]:
    """As `exports`; raises InvalidInputError when there is none."""
    if found := exports(listing, get, fits):
        return found
    raise InvalidInputError(f"no JSON file of the drop is an export of {tool}; looked at {candidates(listing)}")


def candidates(listing: Listing) -> list[str]:
    """Few, since they are looked into: a folder of thousands of JSON files is no export."""
    keys = [f.key for f in listing.files if f.key.endswith(".json") and _place(PurePosixPath(f.key))]
    return keys if len(keys) <= 20 else []


def _place(path: PurePosixPath) -> bool:
    return len(path.parts) == 1 or (len(path.parts) == 2 and (path.parts[0] == "annotations" or path.name[0] == "_"))
