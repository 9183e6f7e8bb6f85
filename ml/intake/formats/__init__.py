"""Drop formats. Each is one file with `found(listing)` and `read(listing, get)`; add yours to `FORMATS`."""

from collections.abc import Callable
from types import ModuleType

from ml.errors import InvalidInputError
from ml.intake.formats import class_folders, labels_csv
from ml.intake.formats.entry import Annotation, Entry
from ml.intake.listing import Listing

__all__ = ["FORMATS", "Annotation", "Entry", "detect", "read"]

FORMATS: dict[str, ModuleType] = {"labels_csv": labels_csv, "class_folders": class_folders}
"""By name, in the order in which they are looked for."""


def detect(listing: Listing) -> str:
    """The name of the format the marker names, else of the first that fits.

    Raises:
        InvalidInputError: the named one is unknown, or none fits.
    """
    if listing.hint is not None:
        if listing.hint not in FORMATS:
            raise InvalidInputError(f"the marker names format `{listing.hint}`; known are {', '.join(FORMATS)}")
        return listing.hint
    for name, module in FORMATS.items():
        if module.found(listing):
            return name
    raise InvalidInputError(
        "no known drop format: expected images in a folder a class, or a labels.csv with columns file,label "
        f"(found {len(listing.files)} files, none of them in a folder)"
    )


def read(name: str, listing: Listing, get: Callable[[str], bytes]) -> list[Entry]:
    """Every file of the drop with its label, in key order; `get` takes a key relative to the drop."""
    entries: list[Entry] = FORMATS[name].read(listing, get)
    return entries
