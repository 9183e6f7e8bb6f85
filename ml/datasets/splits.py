"""Assigns splits to near-duplicate groups by a secret salt; a stored group keeps its split.

Without the secret nobody can choose which pictures land in the holdout.
"""

import hashlib
from dataclasses import dataclass
from typing import Final, Literal

from ml.catalog import split_salt
from ml.context import Context

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


@dataclass(frozen=True)
class Splitter:
    """Chooses the split of a new group.

    Attributes:
        salt: the secret.
        holdout_share, validation_share: expected shares of the groups.
    """

    salt: str
    holdout_share: float
    validation_share: float

    def choose(self, group_id: str, label: str) -> SplitName:
        """The split of a new group; called once for each, with the label of its first sample."""
        del label
        return split_of(group_id, self.salt, self.holdout_share, self.validation_share)


def splitter(ctx: Context) -> Splitter:
    """The splitter of this installation; raises UnavailableError."""
    override = ctx.settings.split_salt
    salt = override.get_secret_value() if override else split_salt.read(ctx.engine)
    return Splitter(salt, ctx.settings.holdout_share, ctx.settings.validation_share)
