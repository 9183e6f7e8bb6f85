"""Assigns splits as a pure function of the near-duplicate group, so a group never changes or spans splits."""

import hashlib
from typing import Final, Literal

SplitName = Literal["train", "validation", "holdout"]
SPLITS: Final[tuple[SplitName, ...]] = ("train", "validation", "holdout")


def split_of(group_id: str, salt: str, holdout_share: float, validation_share: float) -> SplitName:
    """The split of a near-duplicate group.

    The SHA-256 of salt and group is mapped to [0, 1): values below `holdout_share` are holdout, the next
    `validation_share` validation, the rest training.
    """
    position = int.from_bytes(hashlib.sha256(f"{salt}:{group_id}".encode()).digest()[:8], "big") / 2**64
    if position < holdout_share:
        return "holdout"
    return "validation" if position < holdout_share + validation_share else "train"
