"""A drop judged before it is uploaded: the same steps on a bucket that is a folder of this machine."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ml.catalog import existing_samples as stored
from ml.context import Context
from ml.errors import InvalidInputError, NotFoundError, UnavailableError
from ml.intake import entries, history, inspect, judgement, label_agreement, listing, reading, upload
from ml.intake.history import History
from ml.models.model import Model
from ml.storage.object_store import ObjectInfo, ObjectStore

OnImages = Callable[[int, int], None]


@dataclass(frozen=True)
class DryRun:
    """What would become of a drop; `rejected` says why all of it would be, `left_out` what could not be asked."""

    format: str | None
    images: int = 0
    good: int = 0
    duplicates: int = 0
    quarantined: dict[str, list[str]] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    left_out: str | None = None


class Folder(ObjectStore):
    """Objects that are local files: those given, and below `root` those that are put. No server knows of it."""

    def __init__(self, bucket: str, root: Path, files: dict[str, Path]) -> None:
        self.bucket, self._fast = bucket, None
        self._root, self._files = root, files

    def put(self, key: str, data: bytes, content_type: str = "") -> None:
        del content_type
        path = self._root / quote(key, safe="")
        path.write_bytes(data)
        self._files[key] = path

    def put_file(self, key: str, path: Path, content_type: str = "") -> None:
        self.put(key, path.read_bytes(), content_type)

    def get(self, key: str, offset: int = 0, length: int = 0) -> bytes:
        with self._path(key).open("rb") as file:
            file.seek(offset)
            return file.read(length or -1)

    def get_file(self, key: str, path: Path) -> None:
        path.write_bytes(self.get(key))

    def info(self, key: str) -> ObjectInfo:
        stat = self._path(key).stat()
        return ObjectInfo(key, stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}", None)

    def list(self, prefix: str = "", recursive: bool = True) -> Iterator[ObjectInfo]:
        del recursive
        yield from (self.info(key) for key in sorted(self._files) if key.startswith(prefix))

    def copy(self, source: str, target: str, source_bucket: str | None = None) -> None:
        raise UnavailableError(f"nothing is copied in a rehearsal: {source_bucket} {source} {target}")

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._files.pop(key, None)

    def _path(self, key: str) -> Path:
        if key not in self._files:
            raise NotFoundError(f"{self.bucket}/{key} does not exist")
        return self._files[key]


def rehearse(ctx: Context, path: Path, on_images: OnImages) -> DryRun:
    """Judge a folder or archive as it would be judged after its upload; nothing is sent or stored.

    Labels, classes and figures of the data are asked of the catalog; where it does not answer, they are
    left out, and the result says so.

    Args:
        on_images: hears how many images were looked at, of how many.

    Raises:
        InvalidInputError: there is nothing at `path`, or a suite cannot be used.
    """
    with _local(ctx, path) as (here, frozen):
        try:
            drop = reading.take(here, frozen)
        except InvalidInputError as error:
            return DryRun(None, rejected=[str(error)])
        if not drop.entries:
            return DryRun(drop.format, rejected=["the drop holds no image files"])
        entries.save(here, frozen, drop)
        past, champion, left_out = _asked(ctx)
        known = partial(stored.labels, ctx.engine) if past else _nothing
        done = 0
        for chunk in range(inspect.chunk_count(here, frozen.drop_id)):
            done += inspect.inspect_chunk(here, frozen.drop_id, chunk, known)
            on_images(done, len(drop.entries))
        made = judgement.judge(here, frozen.drop_id, past or History(), lambda _: champion)
    fates = made.fates
    return DryRun(
        format=drop.format,
        images=len(fates),
        good=fates.count("good"),
        duplicates=fates.count("duplicate"),
        quarantined={r["key"]: r["reasons"] for r in fates.rows("bad", "key")},
        figures=made.figures,
        warnings=made.warnings,
        rejected=made.against,
        left_out=left_out,
    )


@contextmanager
def _local(ctx: Context, path: Path) -> Iterator[tuple[Context, listing.Listing]]:
    """The context with folders of this machine as buckets, and what would be the drop's listing."""
    with upload.prepare(path, "rehearsal") as prepared, tempfile.TemporaryDirectory() as scratch:
        prefix = f"{ctx.settings.drops_prefix}{prepared.name}/"
        labels = Folder("local", Path(scratch), {prefix + key: file for key, file in prepared.files.items()})
        here = replace(ctx, labels=labels, store=Folder("scratch", Path(scratch), {}))
        yield here, listing.of(here, prefix, None)


def _nothing(hashes: Sequence[str]) -> dict[str, str]:
    del hashes
    return {}


def _asked(ctx: Context) -> tuple[History | None, Model | None, str | None]:
    """History and champion, and why not."""
    try:
        past = history.read(ctx.engine)
    except UnavailableError as error:
        return None, None, str(error)
    try:
        return past, label_agreement.champion(ctx), None
    except UnavailableError as error:
        return past, None, f"labels are not compared with the live model: {error}"
