"""A candidate beside the live model in one worker: who answers, what is counted, and that nothing is ever mixed."""

import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import numpy as np
import pytest

from ml.errors import ImageRejectedError
from ml.imaging.images import Limits
from ml.models.runtimes import Runtime
from serving.errors import ProblemError
from serving.rollout import canary
from serving.rollout.serving_model import ModelSlot, ServingModel, Trial
from serving.rollout.shadow import ShadowRunner
from serving.rollout.trial_counters import MAX_DISAGREEMENTS, Disagreement, TrialCounters
from tests.bundles import loaded, make_bundle
from tests.pictures import png
from tests.servers import wait_until

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 1), np.uint8)


def made(folder: Path, version: int, **bundle: object) -> ServingModel:
    digest = make_bundle(folder / str(version), ("a", "b", "c"), seed=version, **bundle)  # type: ignore[arg-type]
    return ServingModel(loaded(folder / str(version)), version, version, digest, datetime.now(UTC))


@pytest.fixture
def live(tmp_path: Path) -> ServingModel:
    return made(tmp_path, 1)


def tried(live: ServingModel, candidate: ServingModel, strategy: str = "canary", share: float = 0.3) -> ServingModel:
    return replace(live, trial=Trial(candidate, strategy, share, TrialCounters()))


def figures(live: ServingModel) -> dict[str, float]:
    assert live.trial is not None
    return live.trial.counters.totals()


def test_a_share_is_sticky_and_of_its_size_and_another_for_each_deployment() -> None:
    keys = [f"client-{n}" for n in range(4000)]
    first = [canary.in_share(key, 1, 0.3) for key in keys]
    assert first == [canary.in_share(key, 1, 0.3) for key in keys]
    assert 0.27 < np.mean(first) < 0.33
    second = [canary.in_share(key, 2, 0.3) for key in keys]
    assert 0.06 < np.mean(np.array(first) & np.array(second)) < 0.12
    assert all(canary.in_share(key, 1, 1.0) for key in keys[:100])


def test_a_canary_answers_its_share_and_both_are_counted(live: ServingModel, tmp_path: Path) -> None:
    both = tried(live, made(tmp_path, 2))
    answered = [canary.route(both, f"k{n}", lambda chosen: chosen.version) for n in range(200)]
    assert set(answered) == {1, 2}
    assert figures(both) == {"candidate_asked": answered.count(2), "live_asked": answered.count(1)}
    assert canary.route(both, None, lambda chosen: chosen.version) == 1, "checks are no traffic"
    assert sum(figures(both).values()) == 200


@pytest.mark.parametrize("error", [ProblemError(500, canary.MODEL_FAILED, "nan"), RuntimeError("onnxruntime")])
def test_what_a_canary_cannot_answer_the_live_model_does(live: ServingModel, tmp_path: Path, error: Exception) -> None:
    both = tried(live, made(tmp_path, 2), share=1.0)

    def ask(chosen: ServingModel) -> int:
        if chosen.version == 2:
            raise error
        return chosen.version

    assert canary.route(both, "k", ask) == 1
    assert figures(both) == {"candidate_asked": 1, "candidate_errors": 1}


def test_a_bad_image_is_nobodys_fault_and_asked_about_once(live: ServingModel, tmp_path: Path) -> None:
    both, asked = tried(live, made(tmp_path, 2), share=1.0), []

    def ask(chosen: ServingModel) -> int:
        asked.append(chosen.version)
        raise ImageRejectedError("broken", "cut off")

    with pytest.raises(ImageRejectedError):
        canary.route(both, "k", ask)
    assert (asked, figures(both)) == ([2], {})


def test_an_error_of_the_live_model_is_counted_and_raised(live: ServingModel, tmp_path: Path) -> None:
    both = tried(live, made(tmp_path, 2), share=1e-9)
    with pytest.raises(ZeroDivisionError):
        canary.route(both, "k", lambda _: 1 // 0)
    assert figures(both) == {"live_asked": 1, "live_errors": 1}


def test_a_trial_ends_with_the_model_it_hung_on(live: ServingModel, tmp_path: Path) -> None:
    slot, trial = ModelSlot(), Trial(made(tmp_path, 2), "canary", 0.5, TrialCounters())
    slot.set_trial(trial)
    assert slot.get() is None, "nothing is tried beside nothing"
    slot.set(live)
    slot.set_trial(trial)
    taken = slot.get()
    assert taken is not None
    assert taken.trial is trial
    slot.set(made(tmp_path, 3))
    assert slot.get().trial is None  # type: ignore[union-attr]
    assert taken.trial is trial, "who took it keeps it"


def test_a_shadow_is_asked_aside_and_differences_are_noted(live: ServingModel, tmp_path: Path) -> None:
    both = tried(live, made(tmp_path, 9, size=16, channels=3), "shadow", 1.0)
    image = png(PIXELS[..., 0])
    shadow = ShadowRunner(Limits(10**6, 10**6))
    assert canary.route(both, "k", lambda chosen: chosen.version) == 1
    shadow.submit(live, uuid4(), image, PIXELS, "a", 0.9)  # no trial: nothing happens
    for _ in range(20):  # nobody works yet, so what finds no room is skipped at once
        shadow.submit(both, uuid4(), image, PIXELS, "no such label", 0.9)
    assert figures(both) == {"skipped": 12}
    shadow.start()
    wait_until(lambda: figures(both).get("candidate_asked") == 8)
    shadow.stop(5)
    assert not shadow.is_alive()
    counted = figures(both)
    assert (counted["disagreed"], counted["live_asked"]) == (8, 8)
    noted = both.trial.counters.pop_disagreements()  # type: ignore[union-attr]
    assert {one.candidate_label for one in noted} <= {"a", "b", "c"}
    assert both.trial.counters.pop_disagreements() == []  # type: ignore[union-attr]


class Cold:
    """A runtime by a clock of its own, on which the first of all calls takes fifty times as long as the others."""

    def __init__(self, runtime: Runtime, clock: list[float]) -> None:
        self.runtime, self.clock = runtime, clock

    def logits(self, images: np.ndarray) -> np.ndarray:
        self.clock[0] += 1 if self.clock[0] else 50
        return self.runtime.logits(images)


def test_a_shadow_is_not_slow_for_being_asked_first(
    live: ServingModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("serving.rollout.shadow.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    slow, candidate = (
        replace(one, model=replace(one.model, runtime=Cold(one.model.runtime, clock)))  # type: ignore[arg-type]
        for one in (live, made(tmp_path, 2))
    )
    both = tried(slow, candidate, "shadow", 1.0)
    shadow = ShadowRunner(Limits(10**6, 10**6))
    shadow.start()
    shadow.submit(both, uuid4(), b"", PIXELS, "a", 0.9)
    wait_until(lambda: figures(both).get("candidate_asked") == 1)
    shadow.stop(5)
    assert figures(both)["slower"] == 0


def test_a_shadow_that_fails_is_an_error_and_the_next_is_asked(live: ServingModel, tmp_path: Path) -> None:
    both = tried(live, made(tmp_path, 9, bias=float("nan")), "shadow", 1.0)
    shadow = ShadowRunner(Limits(10**6, 10**6))
    shadow.start()
    for _ in range(2):
        shadow.submit(both, uuid4(), b"", PIXELS, "a", 0.9)
    wait_until(lambda: figures(both).get("candidate_errors") == 2)
    shadow.stop(5)


def test_a_tally_counts_all_and_keeps_some() -> None:
    tally = TrialCounters()
    one = Disagreement(uuid4(), "a", 0.5, "b", 0.6)

    def disagree() -> None:
        for _ in range(MAX_DISAGREEMENTS):
            tally.add_disagreement(one)

    threads = [threading.Thread(target=disagree) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tally.totals() == {"disagreed": 3 * MAX_DISAGREEMENTS}
    taken = tally.pop_disagreements()
    assert len(taken) == MAX_DISAGREEMENTS
    tally.restore_disagreements(taken)
    assert tally.pop_disagreements() == taken
