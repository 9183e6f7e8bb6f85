"""Uploads a drop as a user would: the files, then the marker. Begun again, it sends only what is missing."""

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

from ml.context import Context
from ml.errors import InvalidInputError
from ml.intake import archives, formats, source
from ml.intake.archives import ArchiveMember, wrapping
from ml.intake.find import READY
from ml.intake.formats.entry import Entry, is_hidden
from ml.intake.listing import Listing
from ml.storage.object_store import ObjectInfo

OnFile = Callable[[int], None]


@dataclass(frozen=True)
class Upload:
    """What is about to be sent: local files by their key in the drop, and what they will be read as."""

    name: str
    files: dict[str, Path]
    format: str
    entries: tuple[Entry, ...]

    @property
    def classes(self) -> dict[str, int]:
        """Files a class, by name."""
        return dict(sorted(Counter(e.label for e in self.entries if e.label and not e.problem).items()))

    @property
    def problems(self) -> dict[str, str]:
        """What could not be used, by file, and why; what is wrong with the images themselves shows later."""
        return {e.key: e.problem for e in self.entries if e.problem}

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files.values())


@contextmanager
def prepare(path: Path, name: str | None = None) -> Iterator[Upload]:
    """The files of a folder or of a tar of one, and the format they will be read as.

    Raises:
        InvalidInputError: nothing there, a name that is no folder name, or no format that fits.
    """
    name = name or path.name.split(".")[0]
    if not re.fullmatch(r"[\w][\w.-]{0,99}", name):
        raise InvalidInputError(f"`--name` must be letters, digits, dots, dashes and underscores; received {name!r}")
    with TemporaryDirectory() as folder:
        root = path if path.is_dir() else _unpacked(path, Path(folder))
        files = {p.relative_to(root).as_posix(): p for p in sorted(root.rglob("*")) if p.is_file()}
        files = {key: p for key, p in files.items() if not is_hidden(key)}
        if not files:
            raise InvalidInputError(f"{path} holds no files")
        listing = Listing(name, tuple(ObjectInfo(key, p.stat().st_size, "", None) for key, p in files.items()))
        wide, places = archives.expand(listing, lambda info: files[info.key].open("rb"))
        get = cache(lambda key: _inside(files, places[key]) if key in places else files[key].read_bytes())
        found = formats.detect(wide, get)
        yield Upload(name, files, found, tuple(formats.read(found, wide, get)))


def send(ctx: Context, upload: Upload, on_file: OnFile, *, ready: bool = True) -> str:
    """Send what the bucket has not got yet (by size and MD5), then the marker; returns the drop's prefix.

    `on_file` hears the bytes of each file that is done.
    """
    prefix = f"{ctx.settings.drops_prefix}{upload.name}/"
    there = {o.key: o for o in ctx.labels.list(prefix)}

    def one(item: tuple[str, Path]) -> None:
        key, path = item
        known = there.get(prefix + key)
        size = path.stat().st_size
        if known is None or known.size != size or known.etag != _md5(path):
            ctx.labels.put_file(prefix + key, path)
        on_file(size)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, upload.files.items()))
    if ready:
        ctx.labels.put(prefix + READY, b"")
    return prefix


def _inside(files: dict[str, Path], place: ArchiveMember) -> bytes:
    with files[place.archive].open("rb") as file:
        file.seek(place.offset)
        return source.member(file.read(place.span), place.archive, place.size)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _unpacked(path: Path, folder: Path) -> Path:
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


# Only regular files are taken, so no link can lead out. `extractall` with its filter came with Python 3.11.4.
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
        raise InvalidInputError(f"{path} names a file outside itself: {name!r}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        shutil.copyfileobj(content, file)


def _single_folder(folder: Path) -> Path:
    """A tar of one folder that holds everything else is that folder."""
    return folder / wrapping(p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file())
