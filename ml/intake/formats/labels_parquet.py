"""`labels.parquet`: the columns of `labels.csv`."""

import io

import pyarrow as pa
import pyarrow.parquet as pq

from ml.errors import InvalidInputError
from ml.intake.formats.entry import Entry
from ml.intake.formats.rows import Get, contents, entries, row_from_mapping
from ml.intake.listing import Listing

NAME = "labels.parquet"
_COLUMNS = ("file", "label", "annotator", "labelled_at", "confidence", "subject")
_MOST_ROWS = 10_000_000  # a small file can declare any number


def matches(listing: Listing, get: Get) -> bool:
    del get
    return any(f.key == NAME for f in listing.files)


def read(listing: Listing, get: Get) -> list[Entry]:
    """Raises InvalidInputError if the file is not Parquet, lacks a column or has too many rows."""
    try:
        file = pq.ParquetFile(io.BytesIO(contents(listing, get, NAME)))
        if missing := {"file", "label"} - set(file.schema_arrow.names):
            raise InvalidInputError(f"{NAME} lacks the column {' and '.join(sorted(missing))}")
        if file.metadata.num_rows > _MOST_ROWS:
            raise InvalidInputError(f"{NAME} has {file.metadata.num_rows} rows, at most {_MOST_ROWS} are read")
        rows = file.read([c for c in _COLUMNS if c in file.schema_arrow.names]).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InvalidInputError(f"{NAME} cannot be read as Parquet: {error}") from error
    return entries((row_from_mapping(row, NAME) for row in rows), listing, NAME, {NAME})
