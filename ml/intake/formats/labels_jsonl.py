"""`labels.jsonl`: one JSON object per line, with the columns of `labels.csv` as keys."""

from ml.intake.formats.entry import Entry
from ml.intake.formats.rows import Get, contents, entries, json_lines, row_from_mapping
from ml.intake.listing import Listing

NAME = "labels.jsonl"


def matches(listing: Listing, get: Get) -> bool:
    del get
    return any(f.key == NAME for f in listing.files)


def read(listing: Listing, get: Get) -> list[Entry]:
    """Raises InvalidInputError for a line that is not a JSON object."""
    rows = json_lines(contents(listing, get, NAME), NAME)
    return entries((row_from_mapping(row, NAME) for row in rows), listing, NAME, {NAME})
