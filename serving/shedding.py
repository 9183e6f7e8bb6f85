"""What the log lets go when its share of the disk is full: the oldest images of the host first."""

from contextlib import suppress
from pathlib import Path

from serving import spool, tar


def shed_images(root: Path, least: int) -> tuple[int, int]:
    """Delete the images of the oldest pairs in all workers' folders until `least` bytes are free.

    Their rows stay. A folder's newest pair stays whole: its worker may be writing to it.

    Returns:
        How many images went, and how many bytes.
    """
    images = size = 0
    for path in _oldest_first(root):
        if size >= least:
            break
        with suppress(OSError):  # stored, or let go by another worker, a moment ago
            count, length = tar.count(path), path.stat().st_size
            path.unlink()
            images += count
            size += length
    return images, size


def _oldest_first(root: Path) -> list[Path]:
    found: list[tuple[float, Path]] = []
    for folder in spool.folders(root):
        for path in sorted(folder.glob(f"*{tar.SUFFIX}"))[:-1]:
            with suppress(OSError):
                found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found)]
