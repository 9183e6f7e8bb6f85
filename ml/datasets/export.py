"""Exports a version as files for other tools: class folders, WebDataset shards, Hugging Face image folder."""

import hashlib
import io
import shutil
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal
from urllib.parse import quote

import orjson

from ml.context import Context
from ml.datasets import loader, versions
from ml.errors import ConflictError

ExportFormat = Literal["class-folders", "webdataset", "huggingface"]
_SHARD: Final = 256_000_000
_LONGEST: Final = 200  # bytes of a folder's name; file systems allow 255
_PLAIN: Final = " +,;=@()[]{}'!~#&"


@dataclass(frozen=True)
class Sample:
    """An exported image."""

    sha256: str
    label: str
    split: str
    suffix: str
    data: bytes


def export(
    ctx: Context,
    version_id: str,
    target: Path,
    form: ExportFormat,
    splits: Collection[str],
    on_sample: Callable[[], None] | None = None,
) -> int:
    """Write the version below `target` and return the number of samples.

    Files are written to a folder beside `target`, which is renamed when complete, so `target` is never partial.

    Raises:
        ConflictError: the target exists.
        NotFoundError: no such version.
        IntegrityError: a segment is damaged.
    """
    if target.exists():
        raise ConflictError(f"{target} exists already; choose another name or remove it")
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    count = 0
    with _WRITERS[form](unfinished) as writer:
        for sample in _samples(ctx, version_id, splits):
            writer.add(sample)
            count += 1
            if on_sample:
                on_sample()
    unfinished.rename(target)
    return count


def safe_name(label: str) -> str:
    """Return a valid folder name for any label: URL-quoted where needed; long names are truncated with a hash."""
    name = quote(label, safe=_PLAIN)
    if name.startswith("."):
        name = f"%2E{name[1:]}"
    if len(name) > _LONGEST:
        name = f"{name[:100]}-{hashlib.sha256(label.encode()).hexdigest()[:12]}"
    return name


def _samples(ctx: Context, version_id: str, splits: Collection[str]) -> Iterator[Sample]:
    manifest = versions.manifest(ctx, version_id)
    removed = set(manifest.removals)
    for segment in manifest.segments:
        rows = [r for r in loader.index(ctx, segment) if r["split"] in splits and r["sha256"] not in removed]
        if not rows:
            continue
        with loader.tar(ctx, segment).open("rb") as file:
            for row in rows:
                file.seek(row["offset"])
                label = manifest.label_of(row["sha256"], row["label"])
                yield Sample(row["sha256"], label, row["split"], row["format"].lower(), file.read(row["size"]))


class DatasetWriter(ABC):
    """Writes samples in one export format; a context manager that closes its files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._files = folder, ExitStack()

    @abstractmethod
    def add(self, sample: Sample) -> None: ...

    def __enter__(self) -> "DatasetWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()


class ClassFolders(DatasetWriter):
    """``<split>/<label>/<sha256>.<format>``."""

    def add(self, sample: Sample) -> None:
        folder = self.folder / sample.split / safe_name(sample.label)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{sample.sha256}.{sample.suffix}").write_bytes(sample.data)


class HuggingFace(DatasetWriter):
    """``<split>/metadata.jsonl`` with `file_name` and `label` beside the images."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._tables: dict[str, IO[bytes]] = {}

    def add(self, sample: Sample) -> None:
        if sample.split not in self._tables:
            (self.folder / sample.split).mkdir()
            table = (self.folder / sample.split / "metadata.jsonl").open("wb")
            self._tables[sample.split] = self._files.enter_context(table)
        name = f"{sample.sha256}.{sample.suffix}"
        (self.folder / sample.split / name).write_bytes(sample.data)
        self._tables[sample.split].write(orjson.dumps({"file_name": name, "label": sample.label}) + b"\n")


class WebDataset(DatasetWriter):
    """``<split>-000000.tar``: for each sample an image, ``.cls`` (the label) and ``.json`` with the same key."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._shards: dict[str, tarfile.TarFile] = {}
        self._numbers: dict[str, int] = {}

    def add(self, sample: Sample) -> None:
        shard = self._shard(sample.split)
        metadata = orjson.dumps({"sha256": sample.sha256, "label": sample.label, "split": sample.split})
        for suffix, data in ((sample.suffix, sample.data), ("cls", sample.label.encode()), ("json", metadata)):
            member = tarfile.TarInfo(f"{sample.sha256}.{suffix}")
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))

    def _shard(self, split: str) -> tarfile.TarFile:
        shard = self._shards.get(split)
        if shard is None or shard.offset > _SHARD:
            if shard is not None:
                shard.close()
            number = self._numbers[split] = self._numbers.get(split, -1) + 1
            path = self.folder / f"{split}-{number:06}.tar"
            shard = self._shards[split] = self._files.enter_context(tarfile.open(path, "w"))  # noqa: SIM115
        return shard


_WRITERS: Final[dict[str, Any]] = {
    "class-folders": ClassFolders,
    "webdataset": WebDataset,
    "huggingface": HuggingFace,
}
