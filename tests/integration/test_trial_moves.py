"""Trials among movers: operators, other gates, crashes in every place; replicas and tallies are rows in tables."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ml.catalog import cycles, decisions, deployments, trials
from ml.catalog.decisions import Decision
from ml.catalog.deployments import DeploymentRecord
from ml.catalog.engine import transaction
from ml.catalog.tables import cycles as cycles_table
from ml.context import Context
from ml.errors import ConflictError
from ml.release import operator, trial
from ml.release.deploy import Deployment, conclude_interrupted
from ml.release.release import finish_open_cycles, release
from tests.bundles import make_bundle, upload
from tests.environment import environment
from tests.file_registry import install
from tests.servers import wait_until
from tests.table_replica import answering, dead_replica, honest, replica

LABELS = ("ant", "bee", "cat")


class System:
    """Versions 1 to 3, of which 1 is live and 2 is decided on; the gate's strategy is to try them as a shadow."""

    def __init__(self, ctx: Context, folder: Path) -> None:
        self.ctx, self.registry = ctx, install(ctx, folder / "registry.json")
        self.folders = {version: folder / f"b{version}" for version in (1, 2, 3)}
        for version, path in self.folders.items():
            digest = make_bundle(path, LABELS, seed=version)
            self.registry.add(version, upload(ctx, path, version), digest)
        operator.promote(ctx, 1, "ann", "to begin with")

    def decide(self, version: int) -> str:
        with transaction(self.ctx.engine) as connection:
            decision = Decision(f"d{version}", version, 1, None, "promote", "it is better", "gate", {})
            decisions.record(connection, decision)
        cycles.open_cycle(self.ctx.engine, f"c{version}", "manual")
        with transaction(self.ctx.engine) as connection:
            connection.execute(
                cycles_table.update().where(cycles_table.c.id == f"c{version}").values(decision_id=f"d{version}")
            )
        return decision.id

    def begin(self, version: int = 2) -> Deployment:
        begun = release(self.ctx, self.decide(version), cycle_id=f"c{version}")
        assert begun is not None
        assert begun.status == "trial"
        return begun

    def answered(self, deployment_id: int, **figures: float) -> None:
        """As a replica that counted so much; every answer agreed."""
        zero = {"drop": 0, "drop_squares": 0, "slower": 0, "slower_squares": 0}
        with transaction(self.ctx.engine) as connection:
            trials.record(connection, deployment_id, "r1", zero | figures, [])

    def rows(self) -> list[tuple[int, str]]:
        return [(row.model_version, row.status) for row in reversed(deployments.history(self.ctx.engine))]

    @contextmanager
    def started(self) -> Iterator[Deployment]:
        """A trial that every replica holds."""
        with replica(self.ctx, "r1"), replica(self.ctx, "r2"):
            begun = self.begin()
            self.until(lambda: self.ledger(begun).trial_at is not None)
            yield begun

    def ledger(self, of: Deployment) -> DeploymentRecord:
        row = deployments.get(self.ctx.engine, of.id)
        assert row is not None
        return row

    def until(self, condition: Callable[[], bool]) -> None:
        def met() -> bool:
            trial.advance(self.ctx)
            return condition()

        wait_until(met, what=f"a trial's step, beginning with {self.rows()}")


@pytest.fixture
def system(make_context: Callable[..., Context], tmp_path: Path) -> Iterator[System]:
    settings = {"release_strategy": "shadow", "trial_answers": 100, "heartbeat_seconds": 1.0, "release_timeout": 60.0}
    first = System(make_context(**settings, service_url="http://127.0.0.1:9"), tmp_path)
    with answering(honest(first.ctx, first.folders)) as url:
        vars(first.ctx)["settings"] = first.ctx.settings.model_copy(update={"service_url": url})
        yield first


def test_it_counts_from_when_all_hold_it_and_enough_answers_promote(system: System) -> None:
    with system.started() as begun:
        assert system.rows() == [(1, "live"), (2, "trial")]
        assert system.registry.alias("champion") == 1
        system.answered(begun.id, candidate_asked=99, live_asked=99)
        assert release(system.ctx, "d2", cycle_id="c2").status == "trial"  # type: ignore[union-attr]
        assert cycles.get(system.ctx.engine, "c2").finished_at is None
        system.answered(begun.id, candidate_asked=100, live_asked=100)
        done = release(system.ctx, "d2", cycle_id="c2")
    assert done is not None
    assert (done.id, done.status, done.replicas) == (begun.id, "live", 2)
    assert "no harm shown by the shadow of 100 answers" in str(done.reason)
    assert system.rows() == [(1, "superseded"), (2, "live")]
    assert system.registry.aliases() == {"champion": 2, "previous": 1}
    assert cycles.get(system.ctx.engine, "c2").verdict == "promote"
    newest, oldest = deployments.history(system.ctx.engine)
    assert newest.served_from == oldest.served_until
    assert (newest.served_until, newest.actor, oldest.actor) == (None, "gate", "operator:ann")


def test_harm_is_seen_at_the_first_look(system: System) -> None:
    with system.started() as begun:
        system.answered(begun.id, candidate_asked=50, candidate_errors=25, live_asked=50)
        trial.advance(system.ctx)
        assert "worse by errors" in str(system.ledger(begun).reason)
    finish_open_cycles(system.ctx)
    row = cycles.get(system.ctx.engine, "c2")
    assert (row.verdict, row.finished_at is not None) == ("reject", True)
    assert "worse by errors" in str(row.reason)


def test_an_operators_word_ends_it(system: System) -> None:
    with system.started() as begun:
        back = operator.rollback(system.ctx, "ann", "I do not like it")
        assert (back.model_version, back.status) == (1, "live")
        assert system.ledger(begun).reason == "stopped by operator:ann, who moved to version 1: I do not like it"
        system.registry.remove(2)
        assert operator.promote(system.ctx, 3, "ann", "this instead", "shadow").status == "trial"
        assert operator.promote(system.ctx, 3, "ann", "now").status == "live"
    assert system.rows() == [(1, "superseded"), (2, "failed"), (3, "failed"), (3, "live")]


def test_another_gate_does_not_disturb_it(system: System) -> None:
    with system.started() as begun:
        assert release(system.ctx, system.decide(3), cycle_id="c3") is None
        assert "version 2 is being tried" in str(cycles.get(system.ctx.engine, "c3").reason)
        with pytest.raises(ConflictError):
            release(system.ctx, "d3")
        assert system.ledger(begun).status == "trial"


def test_a_replica_that_refuses_and_workers_that_die_end_it(system: System) -> None:
    with replica(system.ctx, "r1"), replica(system.ctx, "r2", "refuses"):
        begun = system.begin()
        system.until(lambda: system.ledger(begun).status == "failed")
    assert system.ledger(begun).reason == "replica r2 refused it: probe is off by 0.5"
    with replica(system.ctx, "r3"):
        again = operator.promote(system.ctx, 3, "ann", "try it", "canary")
        for name in ("x1", "x2"):
            dead_replica(system.ctx, name, candidate_deployment_id=again.id)
        system.until(lambda: system.ledger(again).status == "failed")
    assert system.ledger(again).reason == "2 workers died while they held it"
    assert system.registry.alias("champion") == 1


def test_without_traffic_it_is_not_promoted(system: System) -> None:
    with system.started() as begun:
        short = system.ctx.settings.model_copy(update={"trial_minutes": 1e-6})
        vars(system.ctx)["settings"] = short
        system.answered(begun.id, candidate_asked=20, live_asked=20)
        trial.advance(system.ctx)
    assert system.ledger(begun).status == "failed"
    assert "too few, 50 are needed" in str(system.ledger(begun).reason)


def test_a_canary_whose_answers_are_not_in_the_log_waits_and_is_not_promoted(system: System) -> None:
    with replica(system.ctx, "r1"):
        begun = operator.promote(system.ctx, 3, "ann", "try it", "canary")
        system.until(lambda: system.ledger(begun).trial_at is not None)
        system.answered(begun.id, candidate_asked=500, live_asked=500)
        trial.advance(system.ctx)
        assert system.ledger(begun).status == "trial"
        vars(system.ctx)["settings"] = system.ctx.settings.model_copy(update={"trial_minutes": 1e-6})
        trial.advance(system.ctx)
    assert "does not have the trial's answers" in str(system.ledger(begun).reason)


KILLED = """
import os, signal, sys
from pathlib import Path
from ml.context import connect
from ml.settings import Settings
from ml.release import deploy, trial
from tests.file_registry import install
ctx = connect(Settings.load(os.environ))
registry = install(ctx, Path(sys.argv[1]))
if sys.argv[2] == "as it rolls out":
    deploy.conclude = trial.deploy.conclude = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
else:
    registry.kill_after = "champion"
trial.advance(ctx)
"""


@pytest.mark.parametrize("place", ["as it rolls out", "as the alias moved"])
def test_whoever_ends_it_may_be_killed_and_two_may_look_at_once(system: System, tmp_path: Path, place: str) -> None:
    with system.started() as begun:
        system.answered(begun.id, candidate_asked=100, live_asked=100)
        child = subprocess.run(
            [sys.executable, "-c", KILLED, str(tmp_path / "registry.json"), place],
            env=environment(system.ctx.settings) | {"PATH": "/usr/bin", "PYTHONPATH": str(Path.cwd())},
            capture_output=True,
            text=True,
            timeout=1200,
        )
        assert child.returncode == -9, child.stderr
        assert system.ledger(begun).status == "rolling"
        lookers = [
            threading.Thread(target=look, args=(system.ctx,))
            for look in (trial.advance, conclude_interrupted, finish_open_cycles)
        ]
        for looker in lookers:
            looker.start()
        for looker in lookers:
            looker.join()
    assert system.rows() == [(1, "superseded"), (2, "live")]
    assert system.registry.aliases() == {"champion": 2, "previous": 1}
    assert cycles.get(system.ctx.engine, "c2").live_at is not None
