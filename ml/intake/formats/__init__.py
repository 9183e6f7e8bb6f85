"""Drop formats. Each is one file with `found(listing, get)` and `read(listing, get)`; add yours to `FORMATS`."""

from types import ModuleType

from ml.errors import InvalidInputError
from ml.intake.formats import (
    class_folders,
    coco,
    cvat,
    datumaro,
    huggingface,
    label_studio,
    labels_csv,
    labels_jsonl,
    labels_parquet,
    roboflow,
)
from ml.intake.formats.entry import Annotation, Entry
from ml.intake.formats.rows import Get
from ml.intake.listing import Listing

__all__ = ["FORMATS", "Annotation", "Entry", "Get", "detect", "read"]

FORMATS: dict[str, ModuleType] = {
    "labels_csv": labels_csv,
    "labels_jsonl": labels_jsonl,
    "labels_parquet": labels_parquet,
    "huggingface": huggingface,
    "roboflow": roboflow,
    "cvat": cvat,
    "label_studio": label_studio,
    "coco": coco,
    "datumaro": datumaro,
    "class_folders": class_folders,
}
"""By name, in the order in which they are looked for: a labels file goes before folders."""


def detect(listing: Listing, get: Get) -> str:
    """The name of the format the marker names, else of the first that fits; `get` takes a key relative to the drop.

    Raises:
        InvalidInputError: the named one is unknown, or none fits.
    """
    if listing.hint is not None:
        if listing.hint not in FORMATS:
            raise InvalidInputError(f"the marker names format `{listing.hint}`; known are {', '.join(FORMATS)}")
        return listing.hint
    for name, module in FORMATS.items():
        if module.found(listing, get):
            return name
    raise InvalidInputError(
        f"no known drop format in {len(listing.files)} files: expected images in a folder a class, or beside them a "
        "labels.csv with columns file,label, or an export of a labelling tool"
    )


def read(name: str, listing: Listing, get: Get) -> list[Entry]:
    """Every file of the drop with its label, in key order."""
    entries: list[Entry] = FORMATS[name].read(listing, get)
    return entries
