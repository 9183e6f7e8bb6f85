"""Gates, operators, people and crashes at once: in the end ledger and registry agree, each move with its decision."""

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select

from ml.catalog import approvals, cycles, decisions, deployments, holdout_comparisons
from ml.catalog.approvals import Approval
from ml.catalog.decisions import Decision
from ml.catalog.engine import transaction
from ml.catalog.tables import approvals as approvals_table
from ml.catalog.tables import decisions as decisions_table
from ml.catalog.tables import deployments as deployments_table
from ml.gate.decide import decide
from ml.release import operator
from ml.release.approval import process_pending
from ml.release.release import release
from tests.environment import environment
from tests.gates import Gate


@pytest.fixture
def make_live_gate(make_gate: Callable[..., Gate]) -> Callable[..., Gate]:
    """A gate whose version 1, a poor model, was decided on and is live."""

    def make(**settings: object) -> Gate:
        gate = make_gate(500, release_timeout=5.0, **settings)
        operator.promote(gate.ctx, gate.model(1, fitted_to=40), "ann", "to begin with")
        return gate

    return make


def agree(gate: Gate) -> int:
    """Check every row against the registry; the champion."""
    live = deployments.live(gate.ctx.engine)
    assert live is not None
    assert deployments.rolling(gate.ctx.engine) is None
    champion = gate.registry.alias("champion")
    assert champion is not None
    assert champion == live.model_version
    joined = (
        select(
            deployments_table.c.status,
            deployments_table.c.model_version.label("moved"),
            deployments_table.c.previous_version,
            decisions_table.c.model_version,
            decisions_table.c.champion_version,
            decisions_table.c.verdict,
            decisions_table.c.actor,
            approvals_table.c.approved,
        )
        .join(decisions_table, deployments_table.c.decision_id == decisions_table.c.id)
        .outerjoin(approvals_table, approvals_table.c.decision_id == decisions_table.c.id)
        .order_by(deployments_table.c.id)
    )
    with transaction(gate.ctx.engine) as connection:
        rows = connection.execute(joined).all()
    assert [row.status for row in rows].count("live") == 1
    before = None
    for row in rows:
        assert row.moved == row.model_version
        assert row.previous_version == before, "each move starts from where the last one led"
        assert row.verdict in ("promote", "rollback") or row.approved
        assert row.actor != "gate" or row.champion_version == before, "judged against the champion it replaced"
        before = row.moved if row.status in ("live", "superseded") else before
    numbers = [look.number for look in holdout_comparisons.all_comparisons(gate.ctx.engine)]
    assert numbers == list(range(1, len(numbers) + 1))
    return champion


def go(gate: Gate, version: int) -> Decision:
    """A cycle from decision to release."""
    decision = gate.decide(version)
    release(gate.ctx, decision.id, cycle_id=f"c{version}")
    return decision


def test_two_gates_at_once(make_live_gate: Callable[..., Gate]) -> None:
    gate = make_live_gate()
    for version in (2, 3, 4):
        gate.model(version, seed=version)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda version: go(gate, version), (2, 3, 4)))
    champion = agree(gate)
    assert champion in (2, 3, 4)
    for version in (2, 3, 4):
        row = gate.cycle(version)
        assert row.finished_at is not None
        assert (row.live_at is not None) == (row.verdict == "promote")
    assert gate.cycle(champion).verdict == "promote"


def test_an_operator_between_decision_and_release(make_live_gate: Callable[..., Gate]) -> None:
    gate = make_live_gate()
    decision = gate.decide(gate.model(2))
    assert decision.verdict == "promote"
    operator.promote(gate.ctx, gate.model(3, seed=3), "ann", "first")
    assert release(gate.ctx, decision.id, cycle_id="c2") is None
    assert agree(gate) == 3
    again = decisions.get(gate.ctx.engine, str(gate.cycle(2).decision_id))
    assert (again.id != decision.id, again.champion_version, again.verdict) == (True, 3, "reject"), "judged again"
    assert gate.cycle(2).reason == again.reason


def test_a_process_that_dies_between_the_second_decision_and_its_release(make_live_gate: Callable[..., Gate]) -> None:
    gate = make_live_gate()
    gate.decide(gate.model(2))
    operator.promote(gate.ctx, gate.model(3, fitted_to=45), "ann", "first")
    again = decide(gate.ctx, 2, cycle_id="c2", against_new_champion=True)  # and then it died
    assert again.verdict == "promote"
    process_pending(gate.ctx)
    assert agree(gate) == 2
    assert (gate.cycle(2).verdict, gate.cycle(2).finished_at is not None) == ("promote", True)


def test_gates_operators_and_people_all_at_once(make_live_gate: Callable[..., Gate]) -> None:
    gate = make_live_gate(gate_review="always")
    for version in (2, 3, 4, 5):
        gate.model(version, seed=version)
    decided = threading.Barrier(3)

    def approved(version: int) -> None:
        decision = gate.decide(version)
        decided.wait(300)
        if decision.verdict == "needs_person":
            approvals.answer(gate.ctx.engine, Approval(decision.id, True, "bob", ""), 24)
        process_pending(gate.ctx)

    def operated() -> None:
        decided.wait(300)
        operator.promote(gate.ctx, 4, "ann", "mine")
        operator.rollback(gate.ctx, "ann", "no")

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(approved, 2), pool.submit(approved, 3), pool.submit(operated)]:
            done.result()
    process_pending(gate.ctx)
    agree(gate)
    for version in (2, 3):
        row = gate.cycle(version)
        assert (row.verdict in ("promote", "reject")) == (row.finished_at is not None)
        if row.finished_at is None:  # another became live between the answer and the release, so it is asked anew
            again = decisions.get(gate.ctx.engine, str(row.decision_id))
            assert (row.verdict, approvals.find(gate.ctx.engine, again.id)) == ("needs_person", None)


KILLED = """
import os, sys
from pathlib import Path
from ml.context import connect
from ml.settings import Settings
from tests.file_registry import install
ctx = connect(Settings.load(os.environ))
install(ctx, Path(sys.argv[1])).kill_after = "champion"
from ml.release.approval import process_pending
process_pending(ctx)
"""


def test_a_crash_after_the_alias_moved_on_a_persons_word(make_live_gate: Callable[..., Gate], tmp_path: Path) -> None:
    gate = make_live_gate(gate_review="always")
    decision = gate.decide(gate.model(2))
    approvals.answer(gate.ctx.engine, Approval(decision.id, True, "bob", "fine"), 24)
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "registry.json")],
        env=environment(gate.ctx.settings) | {"PATH": "/usr/bin", "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert child.returncode == -9, child.stderr
    assert gate.registry.alias("champion") == 2, "the registry moved"
    assert deployments.live(gate.ctx.engine).model_version == 1, "the ledger did not"  # type: ignore[union-attr]
    assert gate.cycle(2).finished_at is None
    assert process_pending(gate.ctx) == [decision.id]
    assert agree(gate) == 2
    assert str(gate.cycle(2).reason).startswith("approved by bob: fine")


def test_a_gate_that_starts_where_a_mover_died_judges_against_what_becomes_of_it(
    make_live_gate: Callable[..., Gate],
) -> None:
    gate = make_live_gate()
    place = gate.registry.bundle(gate.model(2))
    decision = gate.decide(2)
    with transaction(gate.ctx.engine) as connection:
        deployments.begin(
            connection,
            model_version=2,
            previous_version=1,
            decision_id=decision.id,
            bundle_prefix=place.prefix,
            bundle_digest=place.digest,
        )
    later = go(gate, gate.model(3, seed=3))  # its release concludes what the dead mover left
    assert (later.champion_version, later.model_version) == (1, 3)
    assert agree(gate) == 2, "the deployment that had begun is concluded; the other was judged against version 1"
    assert "the champion changed from 1 to 2" in str(gate.cycle(3).reason) or gate.cycle(3).verdict == "reject"
    assert cycles.get(gate.ctx.engine, "c3").finished_at is not None
