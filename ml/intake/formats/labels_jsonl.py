"""`labels.jsonl`: an object a line with the keys of `labels.csv`'s columns."""

from ml.intake.formats.entry import Entry
from ml.intake.formats.rows import Get, contents, entries, from_mapping, lines
from ml.intake.listing import Listing

NAME = "labels.jsonl"


def found(listing: Listing, get: Get) -> bool:
    del get
    return any(f.key == NAME for f in listing.files)


def read(listing: Listing, get: Get) -> list[Entry]:
    """Raises InvalidInputError for a line that is no JSON object."""
    rows = lines(contents(listing, get, NAME), NAME)
    return entries((from_mapping(row, NAME) for row in rows), listing, NAME, {NAME})
