"""Assigns splits to near-duplicate groups by a secret salt; a stored group keeps its split.

Without the secret nobody can choose which pictures land in the holdout.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
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


@dataclass
class Splitter:
    """Chooses the splits of the new groups of one drop.

    Attributes:
        salt: the secret.
        holdout_share, validation_share: expected shares of the groups.
        quota: class → groups that may enter the holdout (`ml.datasets.holdout_growth`); None: as many as there are.
        added: class → groups that entered the holdout.
        diverted: class → groups beyond the quota, which train.
    """

    salt: str
    holdout_share: float
    validation_share: float
    quota: Mapping[str, int] | None = None
    added: Counter[str] = field(default_factory=Counter)
    diverted: Counter[str] = field(default_factory=Counter)

    def draw(self, group_id: str) -> SplitName:
        """The split by the salt alone."""
        return split_of(group_id, self.salt, self.holdout_share, self.validation_share)

    def choose(self, group_id: str, label: str) -> SplitName:
        """The split of a new group; called once for each, in order, with the label of its first sample."""
        split = self.draw(group_id)
        if split != "holdout":
            return split
        if self.quota is not None and self.added[label] >= self.quota.get(label, 0):
            self.diverted[label] += 1
            return "train"
        self.added[label] += 1
        return split

    def extend(self, split: SplitName, label: str) -> None:
        """Count a new group whose split others determined: a quota would make it leak."""
        if split == "holdout":
            self.added[label] += 1


def splitter(ctx: Context) -> Splitter:
    """The splitter of this installation, without a quota; raises UnavailableError."""
    override = ctx.settings.split_salt
    salt = override.get_secret_value() if override else split_salt.read(ctx.engine)
    return Splitter(salt, ctx.settings.holdout_share, ctx.settings.validation_share)
