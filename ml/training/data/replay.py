"""Which old samples a refresh sees again."""

from collections.abc import Callable
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ml.training.data.feed import Pictures
from ml.training.loop.fit import logits_of

Policy = Literal["stratified", "herding", "hardest"]
Positions = NDArray[np.int64]
Draw = Callable[[Positions, int], Positions]
"""Of a pool of positions, about so many."""

_SIFTED: Final = 4
"""Candidates for each sample that is picked by the champion's answers: what looking costs follows what is drawn."""


def by(policy: Policy, labels: Positions, images: Pictures, champion: nn.Module | None, seed: int) -> Draw:
    """A policy's draw, which evens the classes out: together with what is new, as equal in number as may be.

    `stratified` draws at random. `hardest` takes the samples with the champion's largest losses, and
    `herding` those whose mean answer is nearest the class's (Welling 2009, as iCaRL has it, on
    log-probabilities in place of features), each from four times as many random ones.

    Args:
        labels: ``int64[N]``, positions among the champion's outputs, or −1 for classes new to it. What a pool
            leaves out counts as new.
        champion: None draws by chance whatever the policy.
    """

    def draw(pool: Positions, count: int) -> Positions:
        if policy == "stratified" or champion is None or count >= len(pool):
            return stratified(labels, pool, count, seed)
        candidates = stratified(labels, pool, count * _SIFTED, seed)
        known = candidates[labels[candidates] >= 0]
        answers = functional.log_softmax(logits_of(champion, images, known), 1)
        rank = _hardest if policy == "hardest" else _herded
        ranked = rank(answers, torch.from_numpy(labels[known]), known)
        return even(ranked, _new_of(ranked, labels, pool), count)

    return draw


def stratified(labels: Positions, pool: Positions, count: int, seed: int) -> Positions:
    """About `count` of `pool` by chance, so that the classes come out even together with what `pool` leaves out."""
    if count >= len(pool):
        return pool
    generator = np.random.default_rng(seed)
    shuffled = [generator.permutation(pool[labels[pool] == c]) for c in np.unique(labels[pool])]
    return even(shuffled, _new_of(shuffled, labels, pool), count)


def even(by_class: list[Positions], ahead: list[int], count: int) -> Positions:
    """The first `count` when classes take turns, each in its own order; one that is `ahead` waits for the others."""
    members = np.concatenate(by_class) if by_class else np.zeros(0, np.int64)
    turns = [np.arange(len(c)) + start for c, start in zip(by_class, ahead, strict=True)]
    turn = np.concatenate(turns) if turns else members
    return members[np.argsort(turn, kind="stable")[:count]]


def _new_of(by_class: list[Positions], labels: Positions, pool: Positions) -> list[int]:
    """For each class, how many samples the pool leaves out."""
    left = np.ones(len(labels), bool)
    left[pool] = False
    counts = np.bincount(labels[left & (labels >= 0)], minlength=int(labels.max(initial=0)) + 1)
    return [int(counts[labels[c[0]]]) if len(c) and labels[c[0]] >= 0 else 0 for c in by_class]


def _hardest(answers: Tensor, labels: Tensor, positions: Positions) -> list[Positions]:
    losses = functional.nll_loss(answers, labels, reduction="none")
    order = losses.argsort(descending=True, stable=True)
    return [positions[order[labels[order] == c].numpy()] for c in np.unique(labels.numpy())]


def _herded(answers: Tensor, labels: Tensor, positions: Positions) -> list[Positions]:
    found = []
    for c in np.unique(labels.numpy()):
        members = torch.nonzero(labels == c).flatten()
        points, chosen = answers[members], []
        left, mean, total = torch.ones(len(members), dtype=torch.bool), answers[members].mean(0), torch.zeros(1)
        for number in range(1, len(members) // _SIFTED + 2):
            distance = ((total + points) / number - mean).square().sum(1).masked_fill(~left, torch.inf)
            best = int(distance.argmin())
            if not bool(left[best]):
                break
            left[best], total = False, total + points[best]
            chosen.append(best)
        found.append(positions[members[chosen].numpy()])
    return found
