"""The sound images of a chunk, kept at inspection as the tar that segments are cut from at acceptance.

What was inspected is what is accepted, whatever happens to the drop meanwhile; and the drop's
objects, of which each costs a request, are read once.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import IO, Any

from ml.context import Context
from ml.storage import range_reads, tar_members
from ml.storage.range_reads import ByteRange


class StagingTar:
    """A pack that grows in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._file: IO[bytes] = path.open("wb")

    def add(self, sha256: str, kind: str, data: bytes) -> int:
        """Where the member of the image begins."""
        start = self.size
        self.size += self._file.write(tar_members.encode(sha256, kind, data))
        return start

    def close(self) -> None:
        self._file.close()


def key(drop_id: str, chunk: int) -> str:
    return f"drops/{drop_id}/packs/{chunk:06}.tar"


def discard(ctx: Context, drop_id: str) -> None:
    """A drop that is finished needs them no more."""
    if keys := [o.key for o in ctx.store.list(f"drops/{drop_id}/packs/")]:
        ctx.store.delete(keys)


def read(ctx: Context, drop_id: str, rows: Iterable[dict[str, Any]]) -> Iterator[memoryview]:
    """The member (`members.encode`) of each sound row, in order; memory holds some 32 MB of them.

    Raises:
        NotFoundError: the pack is gone; inspect the chunk again.
        UnavailableError: the object store failed.
    """
    name = cache(lambda chunk: key(drop_id, chunk))
    return range_reads.stream(
        ctx.store, (ByteRange(name(r["chunk"]), r["packed"], tar_members.span(r["bytes"])) for r in rows)
    )


def image(member: memoryview, size: int) -> bytes:
    """The encoded image in a member."""
    return bytes(member[tar_members.HEADER : tar_members.HEADER + size])
