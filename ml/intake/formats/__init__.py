"""Drop formats, one module each with `matches(listing, get)` and `read(listing, get)`, registered in `FORMATS`."""

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
"""By name, in the order of detection: a labels file takes precedence over folders."""


def detect(listing: Listing, get: Get) -> str:
    """The format that the marker names, else the first that matches; `get` reads a key relative to the drop.

    Raises:
        InvalidInputError: the named format is unknown, or none matches.
    """
    if listing.hint is not None:
        if listing.hint not in FORMATS:
            raise InvalidInputError(f"the marker names format `{listing.hint}`; known formats are {', '.join(FORMATS)}")
        return listing.hint
    for name, module in FORMATS.items():
        if module.matches(listing, get):
            return name
    raise InvalidInputError(
        f"no known drop format in {len(listing.files)} files: expected one folder of images per class, or a "
        "labels.csv beside the images with columns file,label, or an export of a labelling tool"
    )


def read(name: str, listing: Listing, get: Get) -> list[Entry]:
    """All files of the drop with their labels, in key order."""
    entries: list[Entry] = FORMATS[name].read(listing, get)
    return entries
