"""What a refresh trains on."""

import numpy as np
import pytest

from ml.settings import Settings
from ml.training import plan, recipe


def test_without_a_champion_everything_is_trained_on() -> None:
    made = plan.make(
        "auto", np.zeros(10, np.int64), np.ones(10, bool), cold="there is no champion", replay_ratio=2, seed=0
    )
    assert (made.mode, len(made.chosen)) == ("full", 10)


def test_a_refresh_takes_all_that_is_new_and_replays_classes_evenly() -> None:
    labels = np.repeat([0, 1, 2], [700, 200, 100])
    is_new = np.zeros(1000, bool)
    is_new[::20] = True
    made = plan.make("auto", labels, is_new, cold=None, replay_ratio=3, seed=4)
    assert made.mode == "refresh"
    assert set(np.flatnonzero(is_new)) <= set(made.chosen)
    replayed = [i for i in made.chosen if not is_new[i]]
    assert len(replayed) == made.replayed == 150
    assert np.bincount(labels[replayed]).tolist() == [50, 50, 50]
    again = plan.make("auto", labels, is_new, cold=None, replay_ratio=3, seed=4)
    assert np.array_equal(made.chosen, again.chosen)


def test_replay_is_bounded_by_what_there_is() -> None:
    is_new = np.arange(100) < 50
    made = plan.make("refresh", np.zeros(100, np.int64), is_new, cold=None, replay_ratio=9, seed=0)
    assert made.replayed == 50


def test_nothing_new_or_asked_for_is_a_full_training() -> None:
    nothing = np.zeros(10, bool)
    assert plan.make("auto", np.zeros(10, np.int64), nothing, cold=None, replay_ratio=2, seed=0).mode == "full"
    assert plan.make("full", np.zeros(10, np.int64), ~nothing, cold=None, replay_ratio=2, seed=0).mode == "full"


def test_threads_leave_room_for_the_others() -> None:
    assert 1 <= recipe.of(Settings(), 10, 24, 1).threads <= 4
    assert recipe.of(Settings(train_threads=7), 10, 24, 1).threads == 7


@pytest.mark.parametrize(("samples", "side", "epochs"), [(600, 24, 30), (7000, 32, 8), (700, 96, 9), (50_000, 64, 4)])
def test_the_budget_bounds_the_epochs_by_data_alone(samples: int, side: int, epochs: int) -> None:
    assert recipe.of(Settings(train_budget=60_000), samples, side, 3).epochs == epochs
