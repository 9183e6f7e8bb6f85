"""What to train on: everything afresh, or what is new with a replay of what was."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ml.training.data.replay import Draw

Mode = Literal["auto", "refresh", "full"]


@dataclass(frozen=True)
class Past:
    """How the champion came about: refreshes and samples that were new to one, since its line's last full training."""

    refreshes: int = 0
    added: int = 0


@dataclass(frozen=True)
class Plan:
    """The recorded choice.

    Attributes:
        new: training samples that the champion did not learn from; all of them without one.
        replayed: old ones beside them.
        past: with this training counted.
        chosen: positions in the training split.
    """

    mode: Literal["refresh", "full"]
    reason: str
    new: int
    replayed: int
    past: Past
    chosen: NDArray[np.int64]

    def as_params(self) -> dict[str, Any]:
        told = {k: v for k, v in asdict(self).items() if k not in ("chosen", "past")}
        told |= {"refreshes_since_full": self.past.refreshes, "added_since_full": self.past.added}
        return {f"plan_{k}": v for k, v in told.items()}


def make(
    mode: Mode,
    is_new: NDArray[np.bool_],
    cold: str | None,
    past: Past,
    *,
    draw: Draw,
    replay_ratio: float,
    full_every: int,
    full_growth: float,
) -> Plan:
    """Choose mode and samples.

    Args:
        mode: a person's wish, or ``auto``.
        is_new: ``bool[N]``, a training sample that the champion did not learn from, or not by this label.
        cold: why there are no weights to start from; None if there are.
        past: the champion's.
        draw: picks what is replayed.
        replay_ratio: old samples for each new one.
        full_every: after so many refreshes in a row comes a full training; 0: never for that.
        full_growth: a full training when there is so many times what the last one saw; 0: never for that.
    """
    count, new = len(is_new), np.flatnonzero(is_new)
    reason = cold or _why_full(mode, count, len(new), past, full_every, full_growth)
    if reason:
        fresh = count if cold else len(new)
        return Plan("full", reason, fresh, count - fresh, Past(), np.arange(count))
    replayed = draw(np.flatnonzero(~is_new), round(len(new) * replay_ratio))
    chosen = np.sort(np.concatenate([new, replayed]))
    after = Past(past.refreshes + 1, past.added + len(new))
    return Plan("refresh", "new samples since the champion", len(new), len(replayed), after, chosen)


def _why_full(mode: Mode, count: int, new: int, past: Past, full_every: int, full_growth: float) -> str | None:
    if mode == "full":
        return "asked for"
    if not new:
        return "nothing is new since the champion"
    if mode == "refresh":
        return None
    if full_every and past.refreshes >= full_every:
        return f"{past.refreshes} refreshes in a row"
    known = count - new - past.added
    if full_growth and count > full_growth * max(1, known):
        return f"{count} samples, {max(0, known)} at the last full training"
    return None
