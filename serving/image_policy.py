"""Which images of logged predictions are kept."""

from dataclasses import dataclass
from typing import Literal

from ml.settings import Settings

Policy = Literal["all", "sample", "uncertain", "off"]


@dataclass(frozen=True)
class ImagePolicy:
    """`sample`: the share `rate` of contents; `uncertain`: where confidence is below `below`, or nothing was named."""

    policy: Policy
    rate: float = 1.0
    below: float = 1.0

    @classmethod
    def of(cls, settings: Settings) -> "ImagePolicy":
        return cls(settings.log_images, settings.log_images_rate, settings.log_images_below)

    def keeps(self, digest: str, confidence: float, rejected: str | None) -> bool:
        """Whether an image is kept.

        Args:
            digest: SHA-256 in hex. The sample is drawn by it, so that a content is always or never kept.
            confidence: calibrated, of the label answered.
            rejected: why the model named no label, if so.
        """
        if self.policy == "sample":
            return int(digest[:8], 16) < self.rate * 2**32
        if self.policy == "uncertain":
            return rejected is not None or confidence < self.below
        return self.policy == "all"
