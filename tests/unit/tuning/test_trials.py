"""How the trials of a search are counted, ranked and shown."""

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from ml.tuning import search, study


def trial(number: int, state: TrialState, value: float | None = None, *reported: float) -> FrozenTrial:
    frozen = create_trial(
        state=state,
        value=value,
        intermediate_values=dict(enumerate(reported, 1)),
        user_attrs={"run": f"run-{number}"},
    )
    frozen.number = number
    return frozen


COMPLETE, PRUNED, RUNNING, FAILED = TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.FAIL


def test_the_best_complete_trial_comes_first() -> None:
    trials = [
        trial(0, COMPLETE, 0.8),
        trial(1, PRUNED, 0.95),
        trial(2, COMPLETE, 0.9),
        trial(3, RUNNING),
        trial(4, COMPLETE, 0.0),
    ]
    assert [t.number for t in sorted(trials, key=search._rank)] == [2, 0, 4, 1, 3]


def test_a_trial_without_a_result_shows_the_best_epoch_it_reported() -> None:
    row = search._row(trial(3, FAILED, None, 0.5, 0.7, 0.6))
    assert (row["trial"], row["state"], row["accuracy"], row["epochs"]) == (3, "fail", 0.7, 3)
    assert row["run_id"] == "run-3"
    assert search._row(trial(4, RUNNING))["accuracy"] is None
    assert search._row(trial(5, COMPLETE, 0.0, 0.4))["accuracy"] == 0.0


def test_trials_that_failed_or_still_run_do_not_count() -> None:
    done = optuna.create_study(direction="maximize")
    for number, (state, value) in enumerate([(COMPLETE, 0.9), (PRUNED, None), (FAILED, None), (RUNNING, None)]):
        done.add_trial(trial(number, state, value))
    assert [t.state for t in study.finished_trials(done)] == [COMPLETE, PRUNED]
