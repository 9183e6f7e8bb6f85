"""Verifies a dataset version: every stored byte against its SHA-256."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ml.context import Context
from ml.datasets import loader, segments, versions
from ml.datasets.segments import Sample
from ml.errors import IntegrityError, NotFoundError
from ml.storage import tar_members

OnSegment = Callable[[str], None]


def problems(ctx: Context, version_id: str, on_segment: OnSegment | None = None) -> Iterator[str]:
    """Yield a message for each problem of the version; none if it is intact.

    Checks the manifest against its id, each segment's tar and index against their SHA-256 (read from the
    store, not from the cache), and each image in the tar against its SHA-256. Memory holds one image, the
    disk one segment.

    Raises:
        NotFoundError: there is no such version.
        UnavailableError: a server does not answer.
    """
    try:
        manifest = versions.read_manifest(ctx.store, version_id)
    except IntegrityError as error:
        yield str(error)
        return
    for segment in manifest.segments:
        yield from _check_segment(ctx, segment)
        if on_segment:
            on_segment(segment)


def repacked_id(ctx: Context, segment_id: str) -> str:
    """Pack the segment's images and index again and return the resulting id: the same unless something changed."""
    tar, rows = loader.tar(ctx, segment_id), loader.index(ctx, segment_id)

    def images() -> Iterator[Sample]:
        with tar.open("rb") as file:
            for row in rows:
                file.seek(row["offset"])
                yield row, tar_members.encode(row["sha256"], row["format"], file.read(row["size"]))

    with tempfile.TemporaryDirectory() as folder:
        return segments.packed_id(images(), Path(folder))


def _check_segment(ctx: Context, segment_id: str) -> Iterator[str]:
    stored = loader.stored_segment(ctx, segment_id)
    try:
        index = ctx.store.get(stored.index_key)
        actual = hashlib.sha256(index).hexdigest()
        if actual != stored.index_sha256:
            yield f"{stored.index_key} has SHA-256 {actual}, expected {stored.index_sha256}"
            return
        with tempfile.NamedTemporaryFile() as file:
            ctx.store.get_file(stored.tar_key, Path(file.name))
            yield from _check_tar(Path(file.name), stored.tar_key, stored.tar_sha256, index)
    except NotFoundError as error:
        yield f"segment {segment_id} is gone: it was erased, or deleted ({error})"


def _check_tar(path: Path, key: str, expected: str, index: bytes) -> Iterator[str]:
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
        if actual != expected:
            yield f"{key} has SHA-256 {actual}, expected {expected}"
        for row in segments.read_index(index):
            file.seek(row["offset"])
            digest = hashlib.sha256(file.read(row["size"])).hexdigest()
            if digest != row["sha256"]:
                yield f"sample {row['sha256']} in {key} at {row['offset']} has SHA-256 {digest}"
