"""Hugging Face's image folder: ``metadata.jsonl`` or ``.csv`` with ``file_name`` and ``label``, beside the images."""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from ml.errors import InvalidInputError
from ml.intake.formats.entry import Entry
from ml.intake.formats.labels_csv import table
from ml.intake.formats.rows import Get, Row, contents, entries, from_mapping, lines
from ml.intake.listing import Listing

NAMES = ("metadata.jsonl", "metadata.csv")


def found(listing: Listing, get: Get) -> bool:
    del get
    return bool(_own(listing))


def read(listing: Listing, get: Get) -> list[Entry]:
    """File names are relative to their metadata file, of which each split's folder may have one.

    Raises:
        InvalidInputError: a file is no such table, or no row has a label.
    """
    if not (own := _own(listing)):
        raise InvalidInputError("the drop has no metadata.jsonl or metadata.csv at the top or in a folder there")
    rows = [row for key in own for row in _rows(listing, get, key)]
    if not any(row.label or row.problem for row in rows):
        raise InvalidInputError(f"{own[0]} has no column `label`: captions, boxes and masks are no classes")
    return entries(rows, listing, " and ".join(own), set(own))


def _own(listing: Listing) -> list[str]:
    """At the top, or in a split's folder."""
    return [f.key for f in listing.files if f.key.count("/") <= 1 and f.key.rpartition("/")[2] in NAMES]


def _rows(listing: Listing, get: Get, key: str) -> Iterator[Row]:
    data = contents(listing, get, key)
    said: list[Any] = list(table(data, key, {"file_name"}) if key.endswith(".csv") else lines(data, key))
    folder = PurePosixPath(key).parent
    for row in said:
        name = str(row.get("file_name") or "")
        path = name if name.startswith("/") else (folder / name).as_posix()
        if isinstance(row.get("label"), list | dict):
            yield Row(path, problem=f"{key} gives it several labels; one is needed")
        else:
            yield from_mapping({**row, "file": path}, key)
