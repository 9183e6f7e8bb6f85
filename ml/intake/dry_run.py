"""Validates a drop before its upload: the steps of intake, with local folders as buckets."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ml.catalog import existing_samples
from ml.context import Context
from ml.errors import InvalidInputError, NotFoundError, UnavailableError
from ml.intake import entries, history, inspect, judgement, listing, reading, relabels, upload
from ml.intake.findings import Finding
from ml.intake.history import History
from ml.intake.relabels import CountRelabels
from ml.intake.row_verdicts import RowVerdicts
from ml.storage.object_store import ObjectInfo, read_many

OnImages = Callable[[int, int], None]
CheckLabels = Callable[[Context, str, RowVerdicts, bool], Sequence[Finding]]


@dataclass(frozen=True)
class DryRun:
    """The expected outcome of a drop.

    Attributes:
        rejected: reasons to reject it.
        held: why it would wait for a person.
        left_out: which checks were skipped.
    """

    format: str | None
    images: int = 0
    good: int = 0
    duplicates: int = 0
    quarantined: dict[str, list[str]] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    left_out: str | None = None


class LocalStore:
    """An `ObjectStore` on local files: `files` by key, and stored objects below `root`."""

    def __init__(self, bucket: str, root: Path, files: dict[str, Path]) -> None:
        self.bucket = bucket
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

    def get_many(
        self, keys: Iterable[str], pool: Executor | None = None
    ) -> Iterator[bytes | UnavailableError | NotFoundError]:
        return read_many(self.get, keys, pool)

    def info(self, key: str) -> ObjectInfo:
        stat = self._path(key).stat()
        return ObjectInfo(key, stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}", None)

    def exists(self, key: str) -> bool:
        return key in self._files

    def list(self, prefix: str = "", recursive: bool = True) -> Iterator[ObjectInfo]:
        del recursive
        yield from (self.info(key) for key in sorted(self._files) if key.startswith(prefix))

    def copy(self, source: str, target: str, source_bucket: str | None = None) -> None:
        raise UnavailableError(f"objects cannot be copied in a dry run: {source} of {source_bucket} to {target}")

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._files.pop(key, None)

    def _path(self, key: str) -> Path:
        if key not in self._files:
            raise NotFoundError(f"{self.bucket}/{key} does not exist")
        return self._files[key]


def run(
    ctx: Context,
    path: Path,
    on_images: OnImages,
    check_labels: CheckLabels,
    count_relabels: CountRelabels = relabels.not_counted,
) -> DryRun:
    """Validate a folder or archive as after its upload; nothing is uploaded or stored.

    Labels, classes and figures of the stored samples are read from the catalog; if it does not answer, the
    checks that need them are skipped, and the result says so.

    Args:
        on_images: called with the number of inspected images and their total.
        check_labels: gives the findings about the labels of the inspected drop; the last argument says whether the
            stored samples can be reached.
        count_relabels: counts what the drop would change of the labels of stored samples.

    Raises:
        InvalidInputError: `path` does not exist, or a suite cannot be used.
    """
    with _local(ctx, path) as (local, frozen):
        try:
            drop = reading.read_drop(local, frozen)
        except InvalidInputError as error:
            return DryRun(None, rejected=[str(error)])
        if not drop.entries:
            return DryRun(drop.format, rejected=["the drop holds no image files"])
        entries.save(local, frozen, drop)
        past, left_out = _read_catalog(ctx)
        find_labels = partial(existing_samples.labels, ctx.engine) if past else _no_labels
        inspected = 0
        for chunk in range(inspect.chunk_count(local, frozen.drop_id)):
            inspected += inspect.inspect_chunk(local, frozen.drop_id, chunk, find_labels)
            on_images(inspected, len(drop.entries))
        count = count_relabels if past else relabels.not_counted
        verdict = judgement.evaluate(local, frozen.drop_id, past or History(), count)
        findings = [*verdict.findings, *check_labels(local, frozen.drop_id, verdict.rows, past is not None)]
    rows = verdict.rows
    return DryRun(
        format=drop.format,
        images=len(rows),
        good=rows.count("good"),
        duplicates=rows.count("duplicate"),
        quarantined={r["key"]: r["reasons"] for r in rows.rows("bad", "key")},
        figures=verdict.figures,
        warnings=[*verdict.warnings, *(f.message for f in findings if not f.holds)],
        held=[f.message for f in findings if f.holds],
        rejected=verdict.rejection_reasons,
        left_out=left_out,
    )


@contextmanager
def _local(ctx: Context, path: Path) -> Iterator[tuple[Context, listing.Listing]]:
    """The context with local folders as buckets, and the listing that the drop would have."""
    name = upload.default_name(path)  # whether its labels are trusted may depend on it
    with (
        upload.prepare(path, name if upload.is_name(name) else "dry-run") as prepared,
        tempfile.TemporaryDirectory() as scratch,
    ):
        prefix = f"{ctx.settings.drops_prefix}{prepared.name}/"
        labels = LocalStore("local", Path(scratch), {prefix + key: file for key, file in prepared.files.items()})
        local = replace(ctx, labels=labels, store=LocalStore("scratch", Path(scratch), {}))
        yield local, listing.list_prefix(local, prefix, None)


def _no_labels(hashes: Sequence[str]) -> dict[str, str]:
    del hashes
    return {}


def _read_catalog(ctx: Context) -> tuple[History | None, str | None]:
    """The history, and why it is missing."""
    try:
        return history.read(ctx.engine), None
    except UnavailableError as error:
        return None, str(error)
