"""Hugging Face's image folder: ``metadata.jsonl`` or ``.csv`` with ``file_name`` and ``label``, beside the images."""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from ml.errors import InvalidInputError
from ml.intake.formats.entry import Entry
from ml.intake.formats.labels_csv import table
from ml.intake.formats.rows import Get, Row, contents, entries, json_lines, row_from_mapping
from ml.intake.listing import Listing

NAMES = ("metadata.jsonl", "metadata.csv")


def matches(listing: Listing, get: Get) -> bool:
    del get
    return bool(_metadata_keys(listing))


def read(listing: Listing, get: Get) -> list[Entry]:
    """File names are relative to their metadata file; each split's folder may have its own.

    Raises:
        InvalidInputError: a metadata file is invalid, or no row has a label.
    """
    if not (keys := _metadata_keys(listing)):
        raise InvalidInputError("the drop has no metadata.jsonl or metadata.csv at the top or in a folder there")
    rows = [row for key in keys for row in _rows(listing, get, key)]
    if not any(row.label or row.problem for row in rows):
        raise InvalidInputError(f"{keys[0]} has no column `label`: captions, boxes and masks are not classes")
    return entries(rows, listing, " and ".join(keys), set(keys))


def _metadata_keys(listing: Listing) -> list[str]:
    """Metadata files at the top and in the folders of splits."""
    return [f.key for f in listing.files if f.key.count("/") <= 1 and f.key.rpartition("/")[2] in NAMES]


def _rows(listing: Listing, get: Get, key: str) -> Iterator[Row]:
    data = contents(listing, get, key)
    table_rows: list[Any] = list(table(data, key, {"file_name"}) if key.endswith(".csv") else json_lines(data, key))
    folder = PurePosixPath(key).parent
    for row in table_rows:
        name = str(row.get("file_name") or "")
        path = name if name.startswith("/") else (folder / name).as_posix()
        if isinstance(row.get("label"), list | dict):
            yield Row(path, problem=f"{key} gives it several labels; one is needed")
        else:
            yield row_from_mapping({**row, "file": path}, key)
