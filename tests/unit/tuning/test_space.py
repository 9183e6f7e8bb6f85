"""The search space, and the file that a search leaves for later trainings."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FixedTrial

from ml.settings import RECIPE_FILE, Settings
from ml.tuning import space

POINT: dict[str, Any] = {
    "learning_rate": 0.0123456789,
    "weight_decay": 0.001,
    "label_smoothing": 0.15,
    "warm_up": 0.05,
    "batch_size": 128,
    "augmentation": "light",
    "mix": "cutmix",
    "ema": 0.995,
}


def test_a_trial_changes_the_settings_of_the_space_and_no_others() -> None:
    before = Settings(epochs=3, seed=17, model_name="m")
    after = space.suggest(FixedTrial(POINT), before)  # type: ignore[arg-type]  # made by optuna to stand in for a Trial
    assert {name: getattr(after, name) for name in POINT} == POINT
    same = set(Settings.model_fields) - set(POINT)
    assert {name: getattr(after, name) for name in same} == {name: getattr(before, name) for name in same}


def test_every_setting_of_the_space_is_suggested_within_its_bounds() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    assert POINT.keys() == space.SPACE.keys()
    for _ in range(30):
        trial = study.ask()
        settings = space.suggest(trial, Settings())
        assert trial.params == {name: getattr(settings, name) for name in space.SPACE}
        assert 2e-4 <= settings.learning_rate <= 2e-2
        assert settings.batch_size in (32, 64, 128)
    rates = sorted(trial.params["learning_rate"] for trial in study.get_trials())
    assert rates[15] < 0.006  # the median of a uniform one would be at 0.01, of a logarithmic one at 0.002


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        (POINT, set()),
        ({"learning_rate": 2e-4, "weight_decay": 0.1, "label_smoothing": 0.0, "warm_up": 0.3}, set()),  # bounds belong
        ({"learning_rate": 0.021}, {"learning_rate"}),
        ({"weight_decay": 0.0}, {"weight_decay"}),
        ({"batch_size": 48, "ema": 0.9}, {"batch_size", "ema"}),
    ],
)
def test_current_settings_outside_of_the_space_are_left_to_the_sampler(
    changes: dict[str, Any], missing: set[str]
) -> None:
    point = space.current(Settings.model_validate(POINT | changes))
    assert point == {name: value for name, value in (POINT | changes).items() if name not in missing}


def test_the_defaults_are_a_point_of_the_space() -> None:
    assert space.current(Settings()).keys() == space.SPACE.keys()


def test_a_later_training_reads_what_the_search_wrote(tmp_path: Path) -> None:
    text = space.as_file(POINT, "Best of 3 trials.\nAccuracy 0.9")
    assert text.splitlines()[:3] == ["# Best of 3 trials.", "# Accuracy 0.9", "EVERGREEN_LEARNING_RATE=0.0123457"]
    (tmp_path / RECIPE_FILE).write_text(text)
    settings = Settings.load({"EVERGREEN_HOME": str(tmp_path), "EVERGREEN_WARM_UP": "0.2"})
    expected = POINT | {"learning_rate": 0.0123457, "warm_up": 0.2}
    assert {name: getattr(settings, name) for name in POINT} == expected
