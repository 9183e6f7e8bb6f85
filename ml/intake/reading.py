"""Reads the entries of a drop in any supported format."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Final

from ml.catalog import class_names
from ml.context import Context
from ml.errors import ConflictError, InvalidInputError
from ml.intake import archives, formats, source
from ml.intake.archives import ArchiveMember
from ml.intake.formats import Entry
from ml.intake.listing import Listing

_KEY_BYTES: Final = 1024  # S3's limit; only the name of a file that does not exist can be longer


@dataclass(frozen=True)
class Drop:
    """The content of a drop: its format, its entries, the sizes of its files, and those of them in archives, by key."""

    format: str
    entries: Sequence[Entry]
    sizes: Mapping[str, int]
    archive_members: Mapping[str, ArchiveMember]


EMPTY_DROP: Final = Drop("none", (), {}, {})


def read_drop(ctx: Context, listing: Listing) -> Drop:
    """Read the drop.

    Raises:
        InvalidInputError: no format fits, its table or an archive cannot be read, or there are too many images.
        NotFoundError: the table was removed since the drop was listed.
        ConflictError: the table was replaced since then; list the drop again.
    """
    limit = ctx.settings.max_drop_images
    _check_size("files", len(listing.files), limit)
    expanded, members = archives.expand(listing, partial(source.open_object, ctx.labels, listing.prefix))
    _check_size("images", len(expanded.files), limit)
    get = cache(_reader(ctx, listing, members))  # several formats may read the same file
    name = formats.detect(expanded, get)
    all_entries: list[Entry] = formats.read(name, expanded, get)
    _check_size("images", len(all_entries), limit)
    unique = list({e.key: e for e in map(_storable, reversed(all_entries))}.values())[::-1]
    return Drop(name, unique, {f.key: f.size for f in expanded.files}, members)


def _check_size(what: str, count: int, limit: int) -> None:
    if count > limit:
        raise InvalidInputError(
            f"the drop holds more than {limit} {what}, the limit in `EVERGREEN_MAX_DROP_IMAGES`; upload it in parts"
        )


def _reader(ctx: Context, listing: Listing, members: Mapping[str, ArchiveMember]) -> Callable[[str], bytes]:
    etags = {f.key: f.etag for f in listing.files}

    def get(name: str) -> bytes:
        member = members.get(name)
        object_name = member.archive if member else name
        if object_name not in etags:
            raise InvalidInputError(f"the drop has no `{name}`, which its format needs")
        row = {"key": name} | ({n: getattr(member, n) for n in ArchiveMember.__slots__} if member else {})
        (data,) = source.images(ctx, listing.prefix, [row])
        if isinstance(data, Exception):
            raise data
        if ctx.labels.info(listing.prefix + object_name).etag != etags[object_name]:
            raise ConflictError(
                f"`{listing.prefix}{object_name}` was replaced while the drop was claimed; it will be tried again"
            )
        return data

    return get


def _storable(entry: Entry) -> Entry:
    """The entry in a form that Postgres, Parquet and S3 can all store, with labels in Unicode normal form C."""
    if _is_plain(entry):
        return entry
    name = entry.key.replace("\0", "\ufffd").encode()[:_KEY_BYTES].decode(errors="ignore")
    cleaned = replace(
        entry,
        key=name,
        annotator=_clean(entry.annotator),
        subject=_clean(entry.subject),
        others=tuple(
            replace(o, label=class_names.normalised(o.label), annotator=_clean(o.annotator))
            for o in entry.others
            if "\0" not in o.label
        ),
    )
    if entry.label is None or "\0" not in entry.label:
        return replace(cleaned, label=class_names.normalised(entry.label) if entry.label else None)
    return replace(cleaned, label=None, problem=entry.problem or "the label holds a NUL character")


def _is_plain(entry: Entry) -> bool:
    """Whether the entry is storable as it is; true of nearly all."""
    content = entry.key + (entry.label or "")
    return (
        content.isascii()
        and "\0" not in content
        and len(entry.key) <= _KEY_BYTES
        and entry.label != ""
        and not (entry.annotator or entry.subject or entry.others)
    )


def _clean(text: str | None) -> str | None:
    return text.replace("\0", "\ufffd") if text else None
