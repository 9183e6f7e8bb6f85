"""Uploads a drop: the files, then the marker. An interrupted upload resumes with the missing files."""

import hashlib
import re
import shutil
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from ml.catalog.markers import READY
from ml.context import Context
from ml.errors import InvalidInputError
from ml.intake import archives, formats, source
from ml.intake.archives import ArchiveMember, common_folder
from ml.intake.formats.entry import Entry, is_hidden
from ml.intake.listing import Listing
from ml.storage.object_store import ObjectInfo

OnFile = Callable[[int], None]


@dataclass(frozen=True)
class Upload:
    """A prepared upload: local files by their key in the drop, and the entries that will be read from them."""

    name: str
    files: dict[str, Path]
    format: str
    entries: tuple[Entry, ...]

    @property
    def classes(self) -> dict[str, int]:
        """Number of files per class."""
        return dict(sorted(Counter(e.label for e in self.entries if e.label and not e.problem).items()))

    @property
    def problems(self) -> dict[str, str]:
        """Why entries cannot be used, by file; defects of the images themselves are found at inspection."""
        return {e.key: e.problem for e in self.entries if e.problem}

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files.values())


def is_name(name: str) -> bool:
    """Whether a drop may have this name."""
    return re.fullmatch(r"[\w][\w.-]{0,99}", name) is not None


def default_name(path: Path) -> str:
    """The name of a drop that is given none; not always one that a drop may have."""
    return path.name.split(".")[0]


@contextmanager
def prepare(path: Path, name: str | None = None) -> Iterator[Upload]:
    """Prepare the files of a folder, tar or zip, and read their entries.

    Raises:
        InvalidInputError: there are no files, `name` is not a folder name, or no format fits.
    """
    name = name or default_name(path)
    if not is_name(name):
        raise InvalidInputError(f"`--name` must be letters, digits, dots, dashes and underscores; received {name!r}")
    with TemporaryDirectory() as folder:
        root = path if path.is_dir() else _unpack(path, Path(folder))
        files = {p.relative_to(root).as_posix(): p for p in sorted(root.rglob("*")) if p.is_file()}
        files = {key: p for key, p in files.items() if not is_hidden(key)}
        if not files:
            raise InvalidInputError(f"{path} holds no files")
        listing = Listing(name, tuple(ObjectInfo(key, p.stat().st_size, "", None) for key, p in files.items()))
        expanded, members = archives.expand(listing, lambda info: files[info.key].open("rb"))
        get = cache(lambda key: _read_member(files, members[key]) if key in members else files[key].read_bytes())
        format_name = formats.detect(expanded, get)
        yield Upload(name, files, format_name, tuple(formats.read(format_name, expanded, get)))


def send(ctx: Context, upload: Upload, on_file: OnFile, *, ready: bool = True) -> str:
    """Upload the files that the bucket lacks (by size and MD5), then the marker; returns the drop's prefix.

    `on_file` is called with the size of each finished file.
    """
    prefix = f"{ctx.settings.drops_prefix}{upload.name}/"
    existing = {o.key: o for o in ctx.labels.list(prefix)}

    def send_file(item: tuple[str, Path]) -> None:
        key, path = item
        uploaded = existing.get(prefix + key)
        size = path.stat().st_size
        if uploaded is None or uploaded.size != size or uploaded.etag != _md5(path):
            ctx.labels.put_file(prefix + key, path)
        on_file(size)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send_file, upload.files.items()))
    if ready:
        ctx.labels.put(prefix + READY, b"")
    return prefix


def _read_member(files: dict[str, Path], member: ArchiveMember) -> bytes:
    with files[member.archive].open("rb") as file:
        file.seek(member.offset)
        return source.member(file.read(member.span), member.archive, member.size)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _unpack(path: Path, folder: Path) -> Path:
    if not path.exists():
        raise InvalidInputError(f"{path} does not exist; give a folder, or a tar or zip of one")
    try:
        if zipfile.is_zipfile(path):
            _unzip(path, folder)
        else:
            _untar(path, folder)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError) as error:
        raise InvalidInputError(f"{path} cannot be unpacked as a tar or zip: {error}") from error
    return _single_folder(folder)


# Only regular files are extracted, so no link can lead out. The filter of `extractall` needs Python 3.11.4.
def _untar(path: Path, folder: Path) -> None:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and (content := archive.extractfile(member)) is not None:
                with content:
                    _write(path, folder, member.name, content)


def _unzip(path: Path, folder: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                with archive.open(member) as content:
                    _write(path, folder, member.filename, content)


def _write(path: Path, folder: Path, name: str, content: IO[bytes]) -> None:
    target = (folder / name).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise InvalidInputError(f"{path} contains a file name that leads outside: {name!r}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        shutil.copyfileobj(content, file)


def _single_folder(folder: Path) -> Path:
    """The folder that holds all files, if there is just one; else `folder` itself."""
    return folder / common_folder(p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file())
