"""Which images of logged predictions are kept, and which are dropped first."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ml.settings import Settings
from serving.prediction_log import spool

Policy = Literal["all", "sample", "uncertain", "off"]


@dataclass(frozen=True)
class ImagePolicy:
    """`sample`: a share `rate` of the images; `uncertain`: confidence under `below`, or rejected."""

    policy: Policy
    rate: float = 1.0
    below: float = 1.0

    @classmethod
    def from_settings(cls, settings: Settings) -> "ImagePolicy":
        return cls(settings.log_images, settings.log_images_rate, settings.log_images_below)

    def keeps(self, digest: str, confidence: float, rejected: str | None) -> bool:
        """Whether an image is kept.

        Args:
            digest: SHA-256 in hex. The sample is drawn by it, so that equal images are all kept or none.
            confidence: calibrated, of the label answered.
            rejected: why the answer was rejected, if it was.
        """
        if self.policy == "sample":
            return int(digest[:8], 16) < self.rate * 2**32
        if self.policy == "uncertain":
            return rejected is not None or confidence < self.below
        return self.policy == "all"


def shed_images(root: Path, bytes_needed: int) -> tuple[int, int]:
    """Delete the images of the oldest pairs in all workers' folders until `bytes_needed` bytes are free.

    Their rows stay. A folder's newest pair stays whole: its worker may be writing to it.

    Returns:
        The number of images deleted, and their bytes.
    """
    images = size = 0
    for path in _oldest_first(root):
        if size >= bytes_needed:
            break
        with suppress(OSError):  # stored or deleted by another worker meanwhile
            count, length = spool.count(path), path.stat().st_size
            path.unlink()
            images += count
            size += length
    return images, size


def _oldest_first(root: Path) -> list[Path]:
    files: list[tuple[float, Path]] = []
    for folder in spool.folders(root):
        for path in sorted(folder.glob(f"*{spool.SUFFIX}"))[:-1]:
            with suppress(OSError):
                files.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(files)]
