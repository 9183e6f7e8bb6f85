"""What a refresh trains on."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ml.settings import Settings
from ml.training.data import plan, replay
from ml.training.data.plan import Mode, RefreshHistory
from ml.training.loop import recipe
from ml.training.loop.fit import compute_logits


def make(mode: Mode, is_new: np.ndarray, labels: np.ndarray | None = None, **changes: Any) -> plan.Plan:
    labels = np.zeros(len(is_new), np.int64) if labels is None else labels
    values = {
        "cold": None,
        "history": RefreshHistory(),
        "replay_ratio": 2.0,
        "full_every": 0,
        "full_growth": 0.0,
    } | changes
    draw = replay.make_draw("stratified", labels, np.zeros((len(is_new), 8, 8, 1), np.uint8), None, seed=4)
    return plan.make_plan(mode, is_new, draw=draw, **values)


def test_without_a_champion_everything_is_trained_on() -> None:
    planned = make("auto", np.ones(10, bool), cold="there is no champion")
    assert (planned.mode, len(planned.chosen), planned.reason) == ("full", 10, "there is no champion")


def test_a_refresh_takes_all_that_is_new_and_evens_the_classes_out() -> None:
    labels = np.repeat([0, 1, 2], [700, 200, 100])
    is_new = np.zeros(1000, bool)
    is_new[::20] = True
    planned = make("auto", is_new, labels, replay_ratio=3)
    assert planned.mode == "refresh"
    assert set(np.flatnonzero(is_new)) <= set(planned.chosen)
    replayed = [i for i in planned.chosen if not is_new[i]]
    assert len(replayed) == planned.replayed == 150
    assert np.bincount(labels[planned.chosen]).tolist() == [67, 67, 66]
    again = make("auto", is_new, labels, replay_ratio=3)
    assert np.array_equal(planned.chosen, again.chosen)


def test_replay_is_bounded_by_what_there_is() -> None:
    assert make("refresh", np.arange(100) < 50, replay_ratio=9).replayed == 50


def test_nothing_new_or_asked_for_is_a_full_training() -> None:
    nothing = np.zeros(10, bool)
    assert make("auto", nothing).mode == "full"
    assert make("full", ~nothing).mode == "full"


def test_what_people_corrected_in_the_champions_data_begins_anew_unless_asked_otherwise() -> None:
    is_new = np.arange(100) < 10
    assert (planned := make("auto", is_new, corrected="drops/x/ was reverted")).mode == "full"
    assert (planned.reason, planned.history) == ("drops/x/ was reverted", RefreshHistory())
    assert make("refresh", is_new, corrected="drops/x/ was reverted").mode == "refresh"
    assert make("auto", is_new, corrected=None).mode == "refresh"


def test_a_line_of_refreshes_ends_with_a_full_training() -> None:
    is_new = np.arange(100) >= 90
    assert make("auto", is_new, history=RefreshHistory(3, 30), full_every=4).history == RefreshHistory(4, 40)
    ended = make("auto", is_new, history=RefreshHistory(4, 40), full_every=4)
    assert (ended.mode, ended.reason, ended.history) == ("full", "4 refreshes in a row", RefreshHistory())
    grown = make("auto", is_new, history=RefreshHistory(4, 70), full_growth=4.0)  # 20 then, 100 now
    assert (grown.mode, grown.reason) == ("full", "100 samples, 20 at the last full training")
    assert make("auto", is_new, history=RefreshHistory(4, 60), full_growth=4.0).mode == "refresh"
    assert make("refresh", is_new, history=RefreshHistory(4, 40), full_every=4).mode == "refresh"


class Oracle(nn.Module):
    """Answers with the image's own pixels: its first is the log-odds of class 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        odds = images[:, 0, 0, :1] * self.weight
        return torch.cat([-odds, odds], 1)


def test_the_hardest_are_those_the_champion_gets_wrong() -> None:
    labels = np.arange(400) % 2
    images = np.where(labels == 1, 255, 0).astype(np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2)
    wrong = np.asarray([0, 1, 2, 3, 4, 5])
    images[wrong] = 255 - images[wrong]
    draw = replay.make_draw("hardest", labels, images, Oracle(), seed=0)
    assert set(wrong) <= set(draw(np.arange(400), 100))
    assert np.bincount(labels[draw(np.arange(400), 100)]).tolist() == [50, 50]


def test_a_herd_has_the_mean_of_its_class() -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (400, 8, 8, 1), np.uint8)
    labels = np.arange(400) % 2
    few = replay.make_draw("herding", labels, images, Oracle(), seed=0)(np.arange(400), 40)
    assert len(set(few.tolist())) == 40
    values = torch.nn.functional.log_softmax(compute_logits(Oracle(), images), 1)[:, 0].numpy()
    for label in (0, 1):
        mine = few[labels[few] == label]
        assert abs(values[mine].mean() - values[labels == label].mean()) < 0.1


def test_threads_leave_room_for_the_others() -> None:
    assert 1 <= recipe.from_settings(Settings(), 10, 24, 1).threads <= 4
    assert recipe.from_settings(Settings(train_threads=7), 10, 24, 1).threads == 7


@pytest.mark.parametrize(("samples", "side", "epochs"), [(600, 24, 30), (7000, 32, 8), (700, 96, 9), (50_000, 64, 4)])
def test_the_budget_bounds_the_epochs_by_data_alone(samples: int, side: int, epochs: int) -> None:
    assert recipe.from_settings(Settings(train_budget=60_000), samples, side, 3).epochs == epochs


def test_a_replay_evens_out_what_is_new() -> None:
    labels = np.repeat([0, 1, 2], [400, 400, 400])
    is_new = np.zeros(1200, bool)
    is_new[:100] = True
    planned = make("auto", is_new, labels, replay_ratio=2)
    assert np.bincount(labels[planned.chosen]).tolist() == [100, 100, 100]
    much = make("auto", is_new, labels, replay_ratio=5)
    assert np.bincount(labels[much.chosen]).tolist() == [200, 200, 200]
