"""Tars and zips in a drop: their members are treated as if they had been unpacked beside the archive.

Only the tables of contents are read here; the bytes of a member are fetched by their range when they are
needed (`ml.intake.source`).
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

OpenArchive = Callable[[ObjectInfo], IO[bytes]]
_TABLE_SUFFIXES: Final = (".csv", ".json", ".jsonl", ".parquet", ".xml")
_COMPRESSED_SUFFIXES: Final = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z", ".rar")
_MAX_MEMBERS: Final = 5_000_000  # of one archive


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """The position of a file in an archive.

    Attributes:
        archive: the archive's key, relative to the drop's prefix.
        offset: in a tar of its first byte, in a zip of its local header.
        span: bytes to read from `offset` on.
        size: bytes of the uncompressed file.
        problem: why it cannot be read, if it cannot.
    """

    archive: str
    offset: int
    span: int
    size: int
    problem: str | None = None


def expand(listing: Listing, open_archive: OpenArchive) -> tuple[Listing, dict[str, ArchiveMember]]:
    """The listing with members instead of their archives, and the position of each member by key.

    Raises:
        InvalidInputError: an archive cannot be read, is compressed as a whole, or holds a file that exists already.
    """
    plain_files, archives = list[ObjectInfo](), list[ObjectInfo]()
    for file in listing.files:
        if not is_hidden(file.key) and file.key.lower().endswith(_COMPRESSED_SUFFIXES):
            raise InvalidInputError(
                f"`{file.key}` is compressed as a whole, so its images cannot be read one by one; "
                "upload a plain .tar or a .zip, or let `evergreen drop` unpack it"
            )
        (archives if is_archive(file.key) else plain_files).append(file)
    if not archives:
        return listing, {}
    members: dict[str, ArchiveMember] = {}
    origins = {f.key: f.key for f in plain_files}  # the object that each file comes from
    for archive in archives:
        folder = archive.key.rpartition("/")[0]
        for name, member in _strip_common_folder(_read_members(archive, open_archive)):
            key = f"{folder}/{name}" if folder else name
            if other := origins.get(key):
                raise InvalidInputError(f"`{archive.key}` holds {key!r}, which `{other}` is or holds too; rename one")
            origins[key] = archive.key
            members[key] = member
    member_files = (ObjectInfo(key, member.size, "", None) for key, member in members.items())
    return replace(listing, files=tuple(sorted([*plain_files, *member_files], key=lambda f: f.key))), members


def members(archive: ObjectInfo, open_archive: OpenArchive) -> list[ArchiveMember]:
    """The position of every file in one archive, in its order.

    Raises:
        InvalidInputError: it cannot be read.
    """
    return [member for _, member in _read_members(archive, open_archive)]


def common_folder(names: Iterable[str]) -> str:
    """The top folder that holds all files, with a trailing slash; empty if there is none or it is a class folder."""
    visible = [n for n in names if not is_hidden(n)]
    top, slash, _ = visible[0].partition("/") if visible else ("", "", "")
    if not slash or not all(n.startswith(top + slash) for n in visible):
        return ""
    inner = [n.removeprefix(top + slash) for n in visible]
    return top + slash if any("/" in n or n.lower().endswith(_TABLE_SUFFIXES) for n in inner) else ""


def is_archive(key: str) -> bool:
    return not is_hidden(key) and key.lower().endswith((".tar", ".zip"))


def _strip_common_folder(members: list[tuple[str, ArchiveMember]]) -> Iterator[tuple[str, ArchiveMember]]:
    folder = common_folder(name for name, _ in members)
    return ((name.removeprefix(folder), member) for name, member in members if name.startswith(folder))


def _read_members(archive: ObjectInfo, open_archive: OpenArchive) -> list[tuple[str, ArchiveMember]]:
    read = _read_zip if archive.key.lower().endswith(".zip") else _read_tar
    try:
        with open_archive(archive) as file:
            members = list(itertools.islice(read(file, archive), _MAX_MEMBERS + 1))
    except (tarfile.TarError, zipfile.BadZipFile, ValueError, OSError, EOFError, NotImplementedError) as error:
        raise InvalidInputError(f"`{archive.key}` cannot be read as an archive: {error}") from error
    if len(members) > _MAX_MEMBERS:
        raise InvalidInputError(f"`{archive.key}` holds more than {_MAX_MEMBERS:,} files; split it")
    return members


def _read_tar(file: IO[bytes], archive: ObjectInfo) -> Iterator[tuple[str, ArchiveMember]]:
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # else tarfile keeps them all, a kilobyte each
            if member.isfile():
                problem = "it is stored as a sparse file" if member.issparse() else None
                if member.offset_data + member.size > archive.size:
                    raise InvalidInputError(f"`{archive.key}` is cut off in the middle of {member.name!r}")
                yield _checked(
                    member.name, ArchiveMember(archive.key, member.offset_data, member.size, member.size, problem)
                )


def _read_zip(file: IO[bytes], archive: ObjectInfo) -> Iterator[tuple[str, ArchiveMember]]:
    with zipfile.ZipFile(file) as zipped:
        ordered = sorted(zipped.infolist(), key=lambda m: m.header_offset)
        ends = [*(m.header_offset for m in ordered[1:]), zipped.start_dir]
        for member, end in zip(ordered, ends, strict=False):
            if member.is_dir():
                continue
            span = end - member.header_offset
            yield _checked(
                member.filename,
                ArchiveMember(archive.key, member.header_offset, span, member.file_size, _zip_problem(member, span)),
            )


def _zip_problem(member: zipfile.ZipInfo, span: int) -> str | None:
    if member.flag_bits & 0x1:
        return "it is encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"it is compressed by method {member.compress_type}; stored and deflated files can be read"
    if span < member.compress_size:
        return "the archive's table of contents contradicts itself"
    return None


def _checked(name: str, member: ArchiveMember) -> tuple[str, ArchiveMember]:
    plain = name.removeprefix("./")
    if name.startswith("/") or {"..", "."} & set(plain.split("/")):
        return plain, replace(member, problem="its name leads out of the archive")
    return plain, member
