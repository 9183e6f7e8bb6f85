"""Reads what a drop says of its images, in whichever format it says it."""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Final

from ml.context import Context
from ml.errors import ConflictError, InvalidInputError
from ml.intake import archives, formats, source
from ml.intake.archives import ArchiveMember
from ml.intake.formats import Entry
from ml.intake.listing import Listing

_KEY_BYTES: Final = 1024  # S3's limit; only the name of a file that does not exist can be longer


@dataclass(frozen=True)
class Drop:
    """What a drop holds: the format's name, its entries, the sizes of its files, and which are in archives."""

    format: str
    entries: Sequence[Entry]
    sizes: Mapping[str, int]
    places: Mapping[str, ArchiveMember]


NOTHING: Final = Drop("none", (), {}, {})


def take(ctx: Context, listing: Listing) -> Drop:
    """Read the drop.

    Raises:
        InvalidInputError: no format fits, its table or an archive cannot be read, or there are too many images.
        NotFoundError: the table was removed meanwhile.
        ConflictError: the table was replaced meanwhile; list the drop again.
    """
    most = ctx.settings.max_drop_images
    _check_size("files", len(listing.files), most)
    wide, places = archives.expand(listing, partial(source.opened, ctx.labels, listing.prefix))
    _check_size("images", len(wide.files), most)
    get = cache(_reader(ctx, listing, places))  # several formats may look into the same file
    name = formats.detect(wide, get)
    found: list[Entry] = formats.read(name, wide, get)
    _check_size("images", len(found), most)
    unique = list({e.key: e for e in map(_storable, reversed(found))}.values())[::-1]
    return Drop(name, unique, {f.key: f.size for f in wide.files}, places)


def _check_size(what: str, count: int, most: int) -> None:
    if count > most:
        raise InvalidInputError(
            f"the drop holds more than {most} {what}, as many as `EVERGREEN_MAX_DROP_IMAGES` allows; upload it in parts"
        )


def _reader(ctx: Context, listing: Listing, places: Mapping[str, ArchiveMember]) -> Callable[[str], bytes]:
    etags = {f.key: f.etag for f in listing.files}

    def get(name: str) -> bytes:
        place = places.get(name)
        stored = place.archive if place else name
        if stored not in etags:
            raise InvalidInputError(f"the drop has no `{name}`, which its format needs")
        row = {"key": name} | ({n: getattr(place, n) for n in ArchiveMember.__slots__} if place else {})
        (data,) = source.images(ctx, listing.prefix, [row])
        if isinstance(data, Exception):
            raise data
        if ctx.labels.info(listing.prefix + stored).etag != etags[stored]:
            raise ConflictError(
                f"`{listing.prefix}{stored}` was replaced while the drop was claimed; it is tried again"
            )
        return data

    return get


def _storable(entry: Entry) -> Entry:
    """The entry in a form that Postgres, Parquet and S3 can all hold; classes spelt alike on every system."""
    if _is_plain(entry):
        return entry
    name = entry.key.replace("\0", "\ufffd").encode()[:_KEY_BYTES].decode(errors="ignore")
    kept = replace(
        entry,
        key=name,
        annotator=_clean(entry.annotator),
        subject=_clean(entry.subject),
        others=tuple(
            replace(o, label=unicodedata.normalize("NFC", o.label), annotator=_clean(o.annotator))
            for o in entry.others
            if "\0" not in o.label
        ),
    )
    if entry.label is None or "\0" not in entry.label:
        return replace(kept, label=unicodedata.normalize("NFC", entry.label) if entry.label else None)
    return replace(kept, label=None, problem=entry.problem or "the label holds a NUL character")


def _is_plain(entry: Entry) -> bool:
    """Nothing to be done to it; true of nearly all."""
    told = entry.key + (entry.label or "")
    return (
        told.isascii()
        and "\0" not in told
        and len(entry.key) <= _KEY_BYTES
        and entry.label != ""
        and not (entry.annotator or entry.subject or entry.others)
    )


def _clean(text: str | None) -> str | None:
    return text.replace("\0", "\ufffd") if text else None
