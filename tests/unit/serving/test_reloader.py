import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ml.errors import IntegrityError, UnavailableError
from ml.models.model import Model
from serving.rollout.bundle_loader import BundleLoader, DesiredDeployment
from serving.rollout.reloader import ModelReloader
from serving.rollout.serving_model import ModelSlot
from serving.telemetry.metrics import Metrics
from tests.bundles import loaded, make_bundle
from tests.servers import wait_until


class FakeLoader(BundleLoader):
    """Loads what it was given; `errors` are raised first, one a call."""

    def __init__(self, model: Model) -> None:
        self.model, self.errors, self.loads = model, list[Exception](), 0
        self.last: DesiredDeployment | None = None

    def load(self, order: DesiredDeployment) -> Model:
        self.loads += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.model

    def save_last_good(self, order: DesiredDeployment) -> None:
        self.last = order

    def read_last_good(self) -> DesiredDeployment | None:
        return self.last


def order(deployment_id: int, digest: str | None = None) -> DesiredDeployment:
    return DesiredDeployment(
        deployment_id=deployment_id,
        model_version=deployment_id * 10,
        bundle_prefix="p",
        bundle_digest=digest or f"{deployment_id:064x}",
        since=datetime.now(UTC),
    )


@pytest.fixture
def loader(tmp_path: Path) -> FakeLoader:
    make_bundle(tmp_path / "bundle", ("a", "b"))
    return FakeLoader(loaded(tmp_path / "bundle"))


@contextmanager
def following(loader: FakeLoader) -> Iterator[tuple[ModelReloader, ModelSlot]]:
    slot = ModelSlot()
    follower = ModelReloader(slot, loader, Metrics({}))
    follower.start()
    try:
        yield follower, slot
    finally:
        follower.stop(5)
        assert not follower.is_alive()


def live(slot: ModelSlot) -> int | None:
    taken = slot.get()
    return taken.deployment_id if taken else None


def until(condition: Callable[[], bool]) -> None:
    wait_until(condition)


def test_the_wish_becomes_the_live_model(loader: FakeLoader) -> None:
    with following(loader) as (follower, slot):
        follower.set_desired(order(1))
        until(lambda: live(slot) == 1)
        until(lambda: loader.last is not None and loader.last.deployment_id == 1)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere niceness is that of the whole process")
def test_who_loads_gives_way_and_who_answers_does_not(loader: FakeLoader) -> None:
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    with following(loader) as (follower, slot):
        follower.set_desired(order(1))
        until(lambda: live(slot) == 1)
        assert os.getpriority(os.PRIO_PROCESS, follower.native_id or 0) > own
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own


def test_a_refused_bundle_leaves_the_old_model_and_is_not_tried_again(loader: FakeLoader) -> None:
    with following(loader) as (follower, slot):
        follower.set_desired(order(1))
        until(lambda: live(slot) == 1)
        loader.errors = [IntegrityError("bad bytes")]
        follower.set_desired(order(2))
        until(lambda: follower.refusal is not None)
        follower.set_desired(order(2))
        assert live(slot) == 1
        assert follower.refusal is not None
        assert (follower.refusal.deployment_id, follower.refusal.reason) == (2, "bad bytes")
        loads = loader.loads
        follower.set_desired(order(3))
        until(lambda: live(slot) == 3)
        assert loader.loads == loads + 1
        assert follower.refusal is None


def test_a_part_that_is_away_is_asked_again_and_is_no_refusal(
    loader: FakeLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.rollout.reloader.FIRST_RETRY", 0.01)
    loader.errors = [UnavailableError("bucket away"), OSError("disk full")]
    load, states = loader.load, list[tuple[object, object]]()
    with following(loader) as (follower, slot):

        def watched(wanted: DesiredDeployment) -> Model:
            states.append((follower.load_error, follower.refusal))
            return load(wanted)

        monkeypatch.setattr(loader, "load", watched)
        follower.set_desired(order(1))
        until(lambda: live(slot) == 1)
        assert states == [(None, None), ("bucket away", None), ("disk full", None)], "at each try"
        until(lambda: follower.load_error is None)


def test_the_same_bundle_under_a_new_deployment_is_not_loaded_again(loader: FakeLoader) -> None:
    with following(loader) as (follower, slot):
        follower.set_desired(order(1, "a" * 64))
        until(lambda: live(slot) == 1)
        follower.set_desired(order(2, "a" * 64))
        until(lambda: live(slot) == 2)
        assert loader.loads == 1


@pytest.mark.parametrize("reported", [True, False])
def test_without_a_catalog_what_served_last_serves(
    loader: FakeLoader, reported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.rollout.reloader.CATALOG_WAIT_SECONDS", 60 if reported else 0.2)
    loader.last = order(5)
    with following(loader) as (follower, slot):
        if reported:
            follower.catalog_unreachable()
        until(lambda: live(slot) == 5)


def test_a_catalog_without_deployments_leaves_the_slot_empty(loader: FakeLoader) -> None:
    loader.last = order(5)
    with following(loader) as (follower, slot):
        follower.set_desired(None)
        follower.set_desired(None)
        assert live(slot) is None
    assert loader.loads == 0


def test_a_first_wish_that_cannot_be_loaded_leaves_what_served_last(loader: FakeLoader) -> None:
    loader.last, loader.errors = order(5), [IntegrityError("bad")]
    with following(loader) as (follower, slot):
        follower.set_desired(order(6))
        until(lambda: live(slot) == 5)
        assert follower.refusal is not None


def held(slot: ModelSlot) -> int | None:
    taken = slot.get()
    return taken.trial.candidate.deployment_id if taken and taken.trial else None


def test_a_trial_comes_goes_and_becomes_live_without_loading_again(loader: FakeLoader) -> None:
    tried = order(2).model_copy(update={"strategy": "canary", "share": 0.2})
    with following(loader) as (follower, slot):
        follower.set_desired(order(1), tried)
        until(lambda: (live(slot), held(slot)) == (1, 2))
        follower.set_desired(order(1), None)
        until(lambda: held(slot) is None)
        follower.set_desired(order(1), tried)
        until(lambda: held(slot) == 2)
        loads = loader.loads
        follower.set_desired(tried, None)
        until(lambda: (live(slot), held(slot)) == (2, None))
        assert loader.loads == loads
        until(lambda: loader.last is not None and loader.last.deployment_id == 2)


def test_a_candidate_that_is_bad_is_refused_and_the_live_model_goes_on(loader: FakeLoader) -> None:
    with following(loader) as (follower, slot):
        follower.set_desired(order(1))
        until(lambda: live(slot) == 1)
        loader.errors = [UnavailableError("the bucket is away"), IntegrityError("damaged")]
        follower.set_desired(order(1), order(2).model_copy(update={"strategy": "shadow", "share": 0.2}))
        until(lambda: follower.refusal is not None and follower.refusal.deployment_id == 2)
        assert (live(slot), held(slot)) == (1, None)
        assert loader.last is not None
        assert loader.last.deployment_id == 1, "what is only tried is not what served"
