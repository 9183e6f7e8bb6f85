"""Tars and zips among a drop's objects: what they hold stands in the drop as if it had been unpacked where they lie.

Only the tables of contents are read here; a member's bytes are fetched when they are needed, by
their range (`ml.intake.source`).
"""

import itertools
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import IO, Final

from ml.errors import InvalidInputError
from ml.intake.formats.entry import is_hidden
from ml.intake.listing import Listing
from ml.storage.object_store import ObjectInfo

Open = Callable[[ObjectInfo], IO[bytes]]
_TABLES: Final = (".csv", ".json", ".jsonl", ".parquet", ".xml")
_COMPRESSED: Final = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z", ".rar")
_MOST: Final = 5_000_000  # members of one archive


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """Where in an archive a file is.

    Attributes:
        archive: the archive's key, relative to the drop's prefix.
        offset: where it begins: in a tar its bytes, in a zip its local header.
        span: bytes from there on that hold it.
        size: bytes of the file.
        problem: why it cannot be read, if it cannot.
    """

    archive: str
    offset: int
    span: int
    size: int
    problem: str | None = None


def expand(listing: Listing, opened: Open) -> tuple[Listing, dict[str, ArchiveMember]]:
    """The listing with the members in place of their archives, and where each member is.

    Raises:
        InvalidInputError: an archive cannot be read, is compressed as a whole, or holds a file that is there already.
    """
    whole, archives = list[ObjectInfo](), list[ObjectInfo]()
    for file in listing.files:
        if not is_hidden(file.key) and file.key.lower().endswith(_COMPRESSED):
            raise InvalidInputError(
                f"`{file.key}` is compressed as a whole, so its images cannot be read one by one; "
                "upload a plain .tar or a .zip, or let `evergreen drop` unpack it"
            )
        (archives if _is_archive(file.key) else whole).append(file)
    if not archives:
        return listing, {}
    places: dict[str, ArchiveMember] = {}
    there = {f.key: f.key for f in whole}
    for archive in archives:
        folder = archive.key.rpartition("/")[0]
        for name, place in _unwrapped(_members(archive, opened)):
            key = f"{folder}/{name}" if folder else name
            if other := there.get(key):
                raise InvalidInputError(f"`{archive.key}` holds {key!r}, which `{other}` is or holds too: rename one")
            there[key] = archive.key
            places[key] = place
    inside = (ObjectInfo(key, place.size, "", None) for key, place in places.items())
    return replace(listing, files=tuple(sorted([*whole, *inside], key=lambda f: f.key))), places


def wrapping(names: Iterable[str]) -> str:
    """The one folder that holds everything and is not itself a class, with its slash; else empty."""
    seen = [n for n in names if not is_hidden(n)]
    top, slash, _ = seen[0].partition("/") if seen else ("", "", "")
    if not slash or not all(n.startswith(top + slash) for n in seen):
        return ""
    inner = [n.removeprefix(top + slash) for n in seen]
    return top + slash if any("/" in n or n.lower().endswith(_TABLES) for n in inner) else ""


def _is_archive(key: str) -> bool:
    return not is_hidden(key) and key.lower().endswith((".tar", ".zip"))


def _unwrapped(members: list[tuple[str, ArchiveMember]]) -> Iterator[tuple[str, ArchiveMember]]:
    outer = wrapping(name for name, _ in members)
    return ((name.removeprefix(outer), place) for name, place in members if name.startswith(outer))


def _members(archive: ObjectInfo, opened: Open) -> list[tuple[str, ArchiveMember]]:
    read = _of_zip if archive.key.lower().endswith(".zip") else _of_tar
    try:
        with opened(archive) as file:
            found = list(itertools.islice(read(file, archive), _MOST + 1))
    except (tarfile.TarError, zipfile.BadZipFile, ValueError, OSError, EOFError, NotImplementedError) as error:
        raise InvalidInputError(f"`{archive.key}` cannot be read as an archive: {error}") from error
    if len(found) > _MOST:
        raise InvalidInputError(f"`{archive.key}` holds more than {_MOST:,} files; split it")
    return found


def _of_tar(file: IO[bytes], archive: ObjectInfo) -> Iterator[tuple[str, ArchiveMember]]:
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # they are kept otherwise, a kilobyte each
            if member.isfile():
                problem = "it is stored as a sparse file" if member.issparse() else None
                if member.offset_data + member.size > archive.size:
                    raise InvalidInputError(f"`{archive.key}` is cut off in the middle of {member.name!r}")
                yield _placed(
                    member.name, ArchiveMember(archive.key, member.offset_data, member.size, member.size, problem)
                )


def _of_zip(file: IO[bytes], archive: ObjectInfo) -> Iterator[tuple[str, ArchiveMember]]:
    with zipfile.ZipFile(file) as zipped:
        ordered = sorted(zipped.infolist(), key=lambda m: m.header_offset)
        ends = [*(m.header_offset for m in ordered[1:]), zipped.start_dir]
        for member, end in zip(ordered, ends, strict=False):
            if member.is_dir():
                continue
            span = end - member.header_offset
            yield _placed(
                member.filename,
                ArchiveMember(archive.key, member.header_offset, span, member.file_size, _unreadable(member, span)),
            )


def _unreadable(member: zipfile.ZipInfo, span: int) -> str | None:
    if member.flag_bits & 0x1:
        return "it is encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"it is compressed by method {member.compress_type}; stored and deflated files can be read"
    if span < member.compress_size:
        return "the archive's table of contents contradicts itself"
    return None


def _placed(name: str, place: ArchiveMember) -> tuple[str, ArchiveMember]:
    plain = name.removeprefix("./")
    if name.startswith("/") or {"..", "."} & set(plain.split("/")):
        return plain, replace(place, problem="its name leads out of the archive")
    return plain, place
