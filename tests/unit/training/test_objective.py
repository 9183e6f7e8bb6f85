"""What the loop makes small, and what keeps it fair to classes that a plan picks less of."""

import numpy as np
import pytest
import torch

from ml.training.loop import objective
from ml.training.loop.recipe import Balance, Recipe


def recipe(balance: Balance = "none", prior: float = 1.0) -> Recipe:
    return Recipe(
        epochs=1,
        patience=1,
        batch_size=8,
        learning_rate=0.1,
        seed=1,
        label_smoothing=0,
        balance=balance,
        prior=prior,
    )


LABELS = np.repeat([0, 1], [90, 10])


def best_answer(balance: objective.Balance, labels: np.ndarray, chosen: Recipe) -> np.ndarray:
    """Shares that the loss drives a network to which sees nothing but the labels."""
    logits = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=50)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        every = logits.expand(len(labels), 2)
        loss = objective.losses(every, torch.from_numpy(labels), chosen, balance).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return logits.detach().softmax(0).numpy()


def test_what_was_picked_unevenly_is_answered_for_as_it_is_where_it_came_from() -> None:
    none = objective.balance(LABELS, 2, recipe())
    assert none.offsets.tolist() == pytest.approx([0, 0])
    assert best_answer(none, LABELS, recipe()) == pytest.approx([0.9, 0.1], abs=1e-3)
    stored = objective.balance(LABELS, 2, recipe(), np.asarray([0.4, 0.6]))
    assert best_answer(stored, LABELS, recipe()) == pytest.approx([0.4, 0.6], abs=1e-3)


@pytest.mark.parametrize(("prior", "shares"), [(1.0, [0.9, 0.1]), (0.5, [0.75, 0.25]), (0.0, [0.5, 0.5])])
def test_the_prior_says_how_far_rare_classes_stay_rare(prior: float, shares: list[float]) -> None:
    chosen = recipe(prior=prior)
    assert best_answer(objective.balance(LABELS, 2, chosen), LABELS, chosen) == pytest.approx(shares, abs=1e-3)


def test_a_class_that_is_not_learned_from_is_left_alone() -> None:
    """Its logit has next to no gradient: a refresh without replay does not unlearn it."""
    wanted = np.asarray([0.45, 0.05, 0.5])
    gradients = {}
    for name, shares in (("told", wanted), ("not told", None)):
        logits = torch.zeros(100, 3, requires_grad=True)
        balance = objective.balance(LABELS, 3, recipe(), shares)
        objective.losses(logits, torch.from_numpy(LABELS), recipe(), balance).sum().backward()
        assert logits.grad is not None
        gradients[name] = float(logits.grad[:, 2].abs().sum())
    assert gradients["told"] < 0.3 * gradients["not told"]


def test_weights_and_chances_follow_the_shares_wanted() -> None:
    even = objective.balance(LABELS, 2, recipe("weights"), np.asarray([0.5, 0.5]))
    assert even.weights is not None
    assert even.weights.tolist() == pytest.approx([1, 1])
    own = objective.balance(LABELS, 2, recipe("sampler"))
    assert own.sampling_weights is not None
    assert own.sampling_weights[-1] / own.sampling_weights[0] == pytest.approx(3)
