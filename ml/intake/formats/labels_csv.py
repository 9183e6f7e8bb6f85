"""`labels.csv`: columns ``file`` and ``label``.

Optional are ``annotator``, ``labelled_at`` (ISO 8601), ``confidence`` and ``subject``.
"""

import csv
import io

from ml.errors import InvalidInputError
from ml.intake.formats.entry import Entry
from ml.intake.formats.rows import Get, contents, entries, row_from_mapping
from ml.intake.listing import Listing

NAME = "labels.csv"


def matches(listing: Listing, get: Get) -> bool:
    del get
    return any(f.key == NAME for f in listing.files)


def read(listing: Listing, get: Get) -> list[Entry]:
    """An entry for each file that a row names, and for each remaining file.

    Raises:
        InvalidInputError: the table is not UTF-8 CSV or lacks a required column.
    """
    rows = table(contents(listing, get, NAME), NAME, {"file", "label"})
    return entries((row_from_mapping(row, NAME) for row in rows), listing, NAME, {NAME})


def table(data: bytes, name: str, required: set[str]) -> list[dict[str, str | None]]:
    """Rows of a UTF-8 CSV as dicts by column.

    Raises:
        InvalidInputError: it is not UTF-8 CSV, or a required column is missing.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{name} is not UTF-8: {error}; save it as UTF-8") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    try:
        missing = required - {(column or "").strip() for column in reader.fieldnames or ()}
        if missing:
            columns = " and ".join(sorted(missing))
            raise InvalidInputError(f"{name} lacks the column {columns}; found {reader.fieldnames}")
        return [{(k or "").strip(): v for k, v in row.items() if isinstance(v, str | None)} for row in reader]
    except csv.Error as error:
        raise InvalidInputError(f"{name} is not valid CSV from line {reader.line_num} on: {error}") from error
