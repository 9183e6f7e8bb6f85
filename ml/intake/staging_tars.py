"""The usable images of a chunk, stored as a tar at inspection; acceptance builds segments from it.

So the accepted bytes are those that were inspected, even if the drop changes meanwhile, and the drop's objects,
each of which costs a request, are read once.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import IO, Any

from ml.catalog import markers
from ml.context import Context
from ml.storage import range_reads, tar_members
from ml.storage.range_reads import ByteRange


class StagingTar:
    """A tar that is written to a local file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._file: IO[bytes] = path.open("wb")

    def add(self, sha256: str, image_format: str, data: bytes) -> int:
        """Append an image; returns the offset of its member."""
        start = self.size
        self.size += self._file.write(tar_members.encode(sha256, image_format, data))
        return start

    def close(self) -> None:
        self._file.close()


def key(drop_id: str, chunk: int) -> str:
    return f"{markers.staging_prefix(drop_id)}{chunk:06}.tar"


def discard(ctx: Context, drop_id: str) -> None:
    """Delete the tars of a finished drop."""
    if keys := [o.key for o in ctx.store.list(markers.staging_prefix(drop_id))]:
        ctx.store.delete(keys)


def read(ctx: Context, drop_id: str, rows: Iterable[dict[str, Any]]) -> Iterator[memoryview]:
    """The tar member (`tar_members.encode`) of each usable row, in order; memory holds about 32 MB of them.

    Raises:
        NotFoundError: the tar does not exist; inspect the chunk again.
        UnavailableError: the object store failed.
    """
    tar_key = cache(lambda chunk: key(drop_id, chunk))
    return range_reads.stream(
        ctx.store, (ByteRange(tar_key(r["chunk"]), r["packed"], tar_members.member_size(r["bytes"])) for r in rows)
    )


def image(member: memoryview, size: int) -> bytes:
    """The encoded image of a member."""
    return bytes(member[tar_members.HEADER : tar_members.HEADER + size])
