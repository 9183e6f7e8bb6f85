"""Class folders: ``<label>/<anything>``; the first folder is the label."""

from collections.abc import Callable

from ml.intake.formats.entry import Entry, is_hidden
from ml.intake.listing import Listing


def found(listing: Listing) -> bool:
    return any("/" in f.key and not is_hidden(f.key) for f in listing.files)


def read(listing: Listing, get: Callable[[str], bytes]) -> list[Entry]:
    """Files beside the class folders have no label and say so; hidden files are no images."""
    del get
    return [_entry(f.key) for f in listing.files if not is_hidden(f.key)]


def _entry(key: str) -> Entry:
    label, slash, _ = key.partition("/")
    if not slash:
        return Entry(key, None, problem="lies beside the class folders, so it has no label")
    return Entry(key, label.strip() or None)
