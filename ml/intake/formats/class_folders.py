"""Class folders: ``<label>/…``; the top folder is the label."""

from typing import Final

from ml.errors import InvalidInputError
from ml.intake.formats.entry import Entry, is_hidden
from ml.intake.formats.rows import Get
from ml.intake.listing import Listing

_TABLE_SUFFIXES: Final = (".csv", ".tsv", ".json", ".jsonl", ".xml", ".txt", ".parquet")


def matches(listing: Listing, get: Get) -> bool:
    del get
    return any("/" in f.key and not is_hidden(f.key) for f in listing.files)


def read(listing: Listing, get: Get) -> list[Entry]:
    """Files beside the class folders are entries with a problem; hidden files are skipped.

    Raises:
        InvalidInputError: all images are in one folder, and a table beside it seems to hold the labels.
    """
    del get
    keys = [f.key for f in listing.files if not is_hidden(f.key)]
    folders = {key.partition("/")[0] for key in keys if "/" in key}
    tables = [key for key in keys if "/" not in key and key.lower().endswith(_TABLE_SUFFIXES)]
    if len(folders) == 1 and tables:
        raise InvalidInputError(
            f"{tables[0]} beside the only folder `{folders.pop()}` looks like labels, but is none of the known forms; "
            "make it a labels.csv with columns file,label"
        )
    return [_entry(key) for key in keys]


def _entry(key: str) -> Entry:
    label, slash, _ = key.partition("/")
    if not slash:
        return Entry(key, None, problem="lies beside the class folders, so it has no label")
    return Entry(key, label.strip() or None)
