"""Which old samples a refresh trains on again."""

from collections.abc import Callable
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ml.training.data.feed import ImageArray
from ml.training.loop.fit import compute_logits

Policy = Literal["stratified", "herding", "hardest"]
Positions = NDArray[np.int64]
Draw = Callable[[Positions, int], Positions]
"""Selects about that many positions from a pool."""

_CANDIDATES_PER_SAMPLE: Final = 4
"""Candidates scored by the champion per replayed sample, so that the cost depends on the replay size."""


def make_draw(policy: Policy, labels: Positions, images: ImageArray, champion: nn.Module | None, seed: int) -> Draw:
    """Return the draw function of a policy. It balances the class counts of new and replayed samples together.

    `stratified` draws at random. `hardest` takes the samples with the champion's largest losses, and
    `herding` those whose mean prediction is nearest the mean of their class (Welling 2009, as in iCaRL, on
    log-probabilities instead of features), each from four times as many random candidates.

    Args:
        labels: ``int64[N]``, positions among the champion's outputs, or −1 for classes new to it. What a pool
            leaves out counts as new.
        champion: None draws at random, whatever the policy.
    """

    def draw(pool: Positions, count: int) -> Positions:
        if policy == "stratified" or champion is None or count >= len(pool):
            return stratified(labels, pool, count, seed)
        candidates = stratified(labels, pool, count * _CANDIDATES_PER_SAMPLE, seed)
        scored = candidates[labels[candidates] >= 0]
        answers = functional.log_softmax(compute_logits(champion, images, scored), 1)
        rank = _hardest if policy == "hardest" else _herded
        ranked = rank(answers, torch.from_numpy(labels[scored]), scored)
        return balanced(ranked, _count_outside_pool(ranked, labels, pool), count)

    return draw


def stratified(labels: Positions, pool: Positions, count: int, seed: int) -> Positions:
    """About `count` random positions of `pool` that balance the classes together with the samples outside the pool."""
    if count >= len(pool):
        return pool
    generator = np.random.default_rng(seed)
    shuffled = [generator.permutation(pool[labels[pool] == c]) for c in np.unique(labels[pool])]
    return balanced(shuffled, _count_outside_pool(shuffled, labels, pool), count)


def balanced(by_class: list[Positions], ahead: list[int], count: int) -> Positions:
    """The first `count` positions, round-robin over the classes, each starting `ahead` turns later."""
    members = np.concatenate(by_class) if by_class else np.zeros(0, np.int64)
    turns = [np.arange(len(c)) + start for c, start in zip(by_class, ahead, strict=True)]
    turn = np.concatenate(turns) if turns else members
    return members[np.argsort(turn, kind="stable")[:count]]


def _count_outside_pool(by_class: list[Positions], labels: Positions, pool: Positions) -> list[int]:
    """For each class, how many samples are outside the pool."""
    outside = np.ones(len(labels), bool)
    outside[pool] = False
    counts = np.bincount(labels[outside & (labels >= 0)], minlength=int(labels.max(initial=0)) + 1)
    return [int(counts[labels[c[0]]]) if len(c) and labels[c[0]] >= 0 else 0 for c in by_class]


def _hardest(answers: Tensor, labels: Tensor, positions: Positions) -> list[Positions]:
    losses = functional.nll_loss(answers, labels, reduction="none")
    order = losses.argsort(descending=True, stable=True)
    return [positions[order[labels[order] == c].numpy()] for c in np.unique(labels.numpy())]


def _herded(answers: Tensor, labels: Tensor, positions: Positions) -> list[Positions]:
    result = []
    for c in np.unique(labels.numpy()):
        members = torch.nonzero(labels == c).flatten()
        points, chosen = answers[members], []
        remaining, mean, total = torch.ones(len(members), dtype=torch.bool), answers[members].mean(0), torch.zeros(1)
        for number in range(1, len(members) // _CANDIDATES_PER_SAMPLE + 2):
            distance = ((total + points) / number - mean).square().sum(1).masked_fill(~remaining, torch.inf)
            best = int(distance.argmin())
            if not bool(remaining[best]):
                break
            remaining[best], total = False, total + points[best]
            chosen.append(best)
        result.append(positions[members[chosen].numpy()])
    return result
