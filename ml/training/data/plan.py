"""What to train on: everything from scratch, or new samples plus a replay of old ones."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ml.training.data.replay import Draw

Mode = Literal["auto", "refresh", "full"]


@dataclass(frozen=True)
class RefreshHistory:
    """Refreshes since the last full training, and samples they added."""

    refreshes: int = 0
    added: int = 0


@dataclass(frozen=True)
class Plan:
    """The training plan, as it is recorded.

    Attributes:
        new: training samples that the champion was not trained on; all of them if there is no champion.
        replayed: old samples added to them.
        history: including this training.
        chosen: positions in the training split.
    """

    mode: Literal["refresh", "full"]
    reason: str
    new: int
    replayed: int
    history: RefreshHistory
    chosen: NDArray[np.int64]

    def as_params(self) -> dict[str, Any]:
        params = {k: v for k, v in asdict(self).items() if k not in ("chosen", "history")}
        params |= {"refreshes_since_full": self.history.refreshes, "added_since_full": self.history.added}
        return {f"plan_{k}": v for k, v in params.items()}


def make_plan(
    mode: Mode,
    is_new: NDArray[np.bool_],
    cold: str | None,
    history: RefreshHistory,
    *,
    draw: Draw,
    replay_ratio: float,
    full_every: int,
    full_growth: float,
    corrected: str | None = None,
) -> Plan:
    """Choose mode and samples.

    Args:
        mode: as requested, or ``auto``.
        is_new: ``bool[N]``, training samples that the champion was not trained on, or not with this label.
        cold: why a warm start is impossible; None if it is possible.
        history: refresh history of the champion.
        draw: selects the samples to replay.
        replay_ratio: old samples for each new one.
        full_every: number of consecutive refreshes before a full training; 0: no limit.
        full_growth: factor by which the training set grew since the last full training that triggers another; 0: never.
        corrected: what people took out of the champion's training data, or corrected there, since; None: nothing. A
            model that was trained on mistakes keeps some of them when it is trained further, so training begins anew.
    """
    count, new = len(is_new), np.flatnonzero(is_new)
    reason = cold or (corrected if mode == "auto" else None)
    reason = reason or _why_full(mode, count, len(new), history, full_every, full_growth)
    if reason:
        fresh = count if cold else len(new)
        return Plan("full", reason, fresh, count - fresh, RefreshHistory(), np.arange(count))
    replayed = draw(np.flatnonzero(~is_new), round(len(new) * replay_ratio))
    chosen = np.sort(np.concatenate([new, replayed]))
    history = RefreshHistory(history.refreshes + 1, history.added + len(new))
    return Plan("refresh", "new samples since the champion", len(new), len(replayed), history, chosen)


def _why_full(
    mode: Mode, count: int, new: int, history: RefreshHistory, full_every: int, full_growth: float
) -> str | None:
    if mode == "full":
        return "asked for"
    if not new:
        return "nothing is new since the champion"
    if mode == "refresh":
        return None
    if full_every and history.refreshes >= full_every:
        return f"{history.refreshes} refreshes in a row"
    at_last_full = count - new - history.added
    if full_growth and count > full_growth * max(1, at_last_full):
        return f"{count} samples, {max(0, at_last_full)} at the last full training"
    return None
