"""What to train on: everything afresh, or what is new with a replay of what was."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Mode = Literal["auto", "refresh", "full"]


@dataclass(frozen=True)
class Plan:
    """The recorded choice. `new` and `replayed` count training samples; `chosen` are their positions."""

    mode: Literal["refresh", "full"]
    reason: str
    new: int
    replayed: int
    chosen: NDArray[np.int64]

    def as_params(self) -> dict[str, Any]:
        return {f"plan_{k}": v for k, v in asdict(self).items() if k != "chosen"}


def make(
    mode: Mode,
    labels: NDArray[np.int64],
    is_new: NDArray[np.bool_],
    cold: str | None,
    replay_ratio: float,
    seed: int,
) -> Plan:
    """Choose mode and samples.

    Args:
        mode: a person's wish, or ``auto``.
        labels: ``int64[N]`` of the training split.
        is_new: ``bool[N]``, not in the champion's dataset version.
        cold: why there are no weights to start from; None if there are.
        replay_ratio: old samples for each new one, drawn in equal parts a class.
        seed: of the draw.
    """
    everything = np.arange(len(labels))
    if cold:
        return Plan("full", cold, len(labels), 0, everything)
    if mode == "full":
        return Plan("full", "asked for", int(is_new.sum()), int((~is_new).sum()), everything)
    new = np.flatnonzero(is_new)
    if len(new) == 0:
        return Plan("full", "nothing is new since the champion", 0, len(labels), everything)
    replayed = _stratified(labels, np.flatnonzero(~is_new), round(len(new) * replay_ratio), seed)
    chosen = np.sort(np.concatenate([new, replayed]))
    return Plan("refresh", "new samples since the champion", len(new), len(replayed), chosen)


def _stratified(labels: NDArray[np.int64], pool: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """About `count` of `pool`, every class in equal parts as far as it reaches."""
    if count >= len(pool):
        return pool
    generator = np.random.default_rng(seed)
    by_class = [generator.permutation(pool[labels[pool] == c]) for c in np.unique(labels[pool])]
    # Position within its class orders the pool, so that a cut anywhere is as even as the classes allow.
    order = sorted((rank, c) for c, members in enumerate(by_class) for rank in range(len(members)))
    return np.asarray([by_class[c][rank] for rank, c in order[:count]], np.int64)
