"""Small images of a chunk, kept together at inspection, so that acceptance need not ask for each again.

Asking costs more than the bytes of a small image; a large one is fetched from the drop once more. A
pack is only a copy: without it everything is read from the drop.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from ml.context import Context
from ml.errors import NotFoundError
from ml.intake import source
from ml.intake.source import Found

LARGEST: Final = 32_768  # bytes of an image that is packed
_MOST: Final = 64_000_000  # bytes of a pack, which is held in memory while it grows


class Pack:
    """A pack that grows."""

    def __init__(self) -> None:
        self.data = bytearray()

    def add(self, image: bytes) -> int | None:
        """Where the image is in the pack; None: it is not."""
        if len(image) > LARGEST or len(self.data) + len(image) > _MOST:
            return None
        self.data += image
        return len(self.data) - len(image)


def key(drop_id: str, chunk: int) -> str:
    return f"drops/{drop_id}/packs/{chunk:06}"


def discard(ctx: Context, drop_id: str) -> None:
    """A drop that is finished needs them no more."""
    if keys := [o.key for o in ctx.store.list(f"drops/{drop_id}/packs/")]:
        ctx.store.delete(keys)


def images(ctx: Context, prefix: str, drop_id: str, rows: Sequence[dict[str, Any]]) -> Iterator[Found]:
    """The encoded image of each inspected row, in order; an error stands in the place of what has one.

    Memory holds the images of `rows`, so give it a few hundred at once.
    """
    found: dict[int, bytes] = {}
    for chunk in {r["chunk"] for r in rows if r.get("packed") is not None}:
        found |= _of_chunk(ctx, drop_id, chunk, rows)
    others = source.images(ctx, prefix, [r for i, r in enumerate(rows) if i not in found])
    for i in range(len(rows)):
        yield found[i] if i in found else next(others)


def _of_chunk(ctx: Context, drop_id: str, chunk: int, rows: Sequence[dict[str, Any]]) -> dict[int, bytes]:
    """The images by their place in `rows`, read in one range of the pack; none if the pack is gone."""
    spans = {
        i: (r["packed"], r["packed"] + r["bytes"])
        for i, r in enumerate(rows)
        if r["chunk"] == chunk and r.get("packed") is not None
    }
    low, high = min(start for start, _ in spans.values()), max(end for _, end in spans.values())
    try:
        data = ctx.store.get(key(drop_id, chunk), low, high - low)
    except NotFoundError:
        return {}
    return {i: data[start - low : end - low] for i, (start, end) in spans.items()}
