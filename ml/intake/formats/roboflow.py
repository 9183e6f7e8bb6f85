"""Roboflow's one-hot table: ``_classes.csv`` with ``filename`` and a column of 0 and 1 for each class."""

from collections.abc import Iterator
from pathlib import PurePosixPath

from ml.errors import InvalidInputError
from ml.intake.formats.entry import Entry
from ml.intake.formats.labels_csv import table
from ml.intake.formats.rows import Get, Row, contents, entries
from ml.intake.listing import Listing

NAME = "_classes.csv"


def matches(listing: Listing, get: Get) -> bool:
    del get
    return bool(_table_keys(listing))


def read(listing: Listing, get: Get) -> list[Entry]:
    """Each split's folder has its own table; a row with several ones has several labels and is rejected.

    Raises:
        InvalidInputError: a table lacks `filename` or has no class columns.
    """
    if not (keys := _table_keys(listing)):
        raise InvalidInputError("the drop has no _classes.csv at the top or in a folder there")
    readmes = {f.key for f in listing.files if f.key.rpartition("/")[2].startswith("README.")}
    return entries(
        [r for key in keys for r in _rows(listing, get, key)], listing, " and ".join(keys), {*keys, *readmes}
    )


def _table_keys(listing: Listing) -> list[str]:
    return [f.key for f in listing.files if f.key.count("/") <= 1 and f.key.rpartition("/")[2] == NAME]


def _rows(listing: Listing, get: Get, key: str) -> Iterator[Row]:
    folder = PurePosixPath(key).parent
    rows = table(contents(listing, get, key), key, {"filename"})
    if rows and len(rows[0]) < 2:
        raise InvalidInputError(f"{key} has no class columns beside `filename`")
    for row in rows:
        path = (folder / (row.pop("filename") or "").strip()).as_posix()
        labels = [name for name, value in row.items() if (value or "").strip() == "1"]
        if invalid := {v.strip() for v in row.values() if v and v.strip() not in ("0", "1")}:
            yield Row(path, problem=f"{key} must hold 0 and 1; found {sorted(invalid)[0]!r}")
        elif len(labels) > 1:
            yield Row(path, problem=f"{key} gives it several labels ({', '.join(labels)}); one is needed")
        else:
            yield Row(path, labels[0] if labels else None)
