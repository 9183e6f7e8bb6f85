"""What checks find in a drop as a whole: a warning, or a reason for which the drop waits for a person."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

MAX_IMAGES: Final = 100


@dataclass(frozen=True)
class Finding:
    """What a check found in a drop as a whole.

    Attributes:
        kind: short machine name, e.g. `label_noise`, `shuffled_labels`, `relabels_stored`, `backdoor`.
        message: a sentence for people: what was found, the figure, and what to do.
        holds: the drop waits for a person; otherwise it is a warning.
        images: keys of the images that show it, most suspicious first, at most `MAX_IMAGES`.
        figures: numbers behind the message.
    """

    kind: str
    message: str
    holds: bool
    images: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """As it is stored in `drops.findings`."""
        return {
            "kind": self.kind,
            "message": self.message,
            "holds": self.holds,
            "images": list(self.images[:MAX_IMAGES]),
            "figures": dict(self.figures),
        }
