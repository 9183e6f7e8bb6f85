"""Which split a sample is in: a pure function of its group, so it never changes and is never straddled."""

import hashlib
from typing import Final, Literal

SplitName = Literal["train", "validation", "holdout"]
SPLITS: Final[tuple[SplitName, ...]] = ("train", "validation", "holdout")


def split_of(group_id: str, salt: str, holdout_share: float, validation_share: float) -> SplitName:
    """The split of a near-duplicate group.

    The group's SHA-256 (with `salt`) as a number in [0, 1): below `holdout_share` is holdout, the next
    `validation_share` is validation, the rest training.
    """
    position = int.from_bytes(hashlib.sha256(f"{salt}:{group_id}".encode()).digest()[:8], "big") / 2**64
    if position < holdout_share:
        return "holdout"
    return "validation" if position < holdout_share + validation_share else "train"
