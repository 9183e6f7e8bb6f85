"""Decisions that wait for a person: the first answer counts, wherever it came from, and silence is a no."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update
from typer.testing import CliRunner

from ml.catalog import approvals, cycles, deployments
from ml.catalog.approvals import Approval
from ml.catalog.cycles import CycleRecord
from ml.catalog.decisions import Decision, record
from ml.catalog.engine import transaction
from ml.catalog.tables import approvals as approvals_table
from ml.catalog.tables import decisions as decisions_table
from ml.cli import output
from ml.cli.main import app
from ml.context import Context
from ml.errors import ConflictError, InvalidInputError, NotFoundError
from ml.release.approval import apply_approval, process_pending
from ml.release.release import release
from serving.app import build
from tests.bundles import make_bundle, make_live, upload
from tests.file_registry import FileRegistry, install

DECISION = "ab12"


@dataclass
class Waiting:
    """A decision on version 2 against champion 1 that needs a person, and its cycle."""

    ctx: Context
    registry: FileRegistry

    def cycle(self) -> CycleRecord:
        return cycles.get(self.ctx.engine, "c2")

    def answer(self, approved: bool, actor: str = "ann", reason: str = "looked") -> Approval:
        given = Approval(DECISION, approved, actor, reason)
        return approvals.answer(self.ctx.engine, given, self.ctx.settings.gate_review_hours)

    def age(self, hours: float) -> None:
        with transaction(self.ctx.engine) as connection:
            older = func.now() - timedelta(hours=hours)
            connection.execute(update(decisions_table).values(created_at=older))

    def answers(self) -> list[tuple[bool, str]]:
        with transaction(self.ctx.engine) as connection:
            rows = connection.execute(select(approvals_table.c.approved, approvals_table.c.actor))
            return [(approved, actor) for approved, actor in rows]


@pytest.fixture
def waiting(make_context: Callable[..., Context], tmp_path: Path) -> Waiting:
    ctx = make_context()
    registry = install(ctx, tmp_path / "registry.json")
    for version in (1, 2, 3):
        digest = make_bundle(tmp_path / f"v{version}", "01", seed=version)
        registry.add(version, upload(ctx, tmp_path / f"v{version}", version), digest)
    make_live(ctx, registry, 1)
    cycles.open_cycle(ctx.engine, "c2", "manual")
    with transaction(ctx.engine) as connection:
        record(connection, Decision(DECISION, 2, 1, None, "needs_person", "unclear on class 1", "gate", {}))
    cycles.record(ctx.engine, "c2", decision_id=DECISION, verdict="needs_person", reason="unclear", model_version=2)
    return Waiting(ctx, registry)


def test_nothing_happens_before_the_answer(waiting: Waiting) -> None:
    assert release(waiting.ctx, DECISION, cycle_id="c2") is None
    assert process_pending(waiting.ctx) == []
    assert waiting.registry.alias("champion") == 1
    assert waiting.cycle().finished_at is None


def test_a_yes_is_released_and_told_in_the_cycle(waiting: Waiting) -> None:
    waiting.answer(approved=True)
    done = apply_approval(waiting.ctx, DECISION)
    assert done is not None
    assert done.status == "live"
    assert waiting.registry.alias("champion") == 2
    row = waiting.cycle()
    assert (row.verdict, row.reason) == ("promote", "approved by ann: looked (unclear on class 1)")
    assert row.live_at is not None
    again = apply_approval(waiting.ctx, DECISION)
    assert again is not None
    assert again.id == done.id, "carried out once"


def test_a_no_ends_the_cycle(waiting: Waiting) -> None:
    waiting.answer(approved=False, reason="too dark")
    assert apply_approval(waiting.ctx, DECISION) is None
    row = waiting.cycle()
    assert (row.verdict, row.reason) == ("reject", "rejected by ann: too dark (unclear on class 1)")
    assert row.finished_at is not None
    assert waiting.registry.alias("champion") == 1


def test_the_first_answer_counts_and_saying_it_again_is_no_fault(waiting: Waiting) -> None:
    waiting.answer(approved=False)
    assert not waiting.answer(approved=False).approved
    for approved, actor in ((True, "ann"), (True, "bob"), (False, "bob")):
        with pytest.raises(ConflictError, match="answered already: rejected by ann: looked"):
            waiting.answer(approved, actor)
    assert waiting.answers() == [(False, "ann")]


def test_of_many_at_once_one_wins(waiting: Waiting) -> None:
    def give(i: int) -> bool:
        try:
            waiting.answer(approved=bool(i % 2), actor=f"p{i}")
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(give, range(8)))
    assert sum(won) == 1
    (kept,) = waiting.answers()
    assert kept == (bool(won.index(True) % 2), f"p{won.index(True)}")


def test_silence_is_a_no_even_where_nobody_swept(waiting: Waiting) -> None:
    waiting.age(hours=23.9)
    assert process_pending(waiting.ctx) == []
    waiting.age(hours=24.1)
    with pytest.raises(ConflictError, match="rejected, nobody answered within 24 hours"):
        waiting.answer(approved=True)
    assert process_pending(waiting.ctx) == [DECISION]
    row = waiting.cycle()
    assert (row.verdict, waiting.answers()) == ("reject", [(False, "timeout")])
    assert "nobody answered within 24 hours" in str(row.reason)
    assert process_pending(waiting.ctx) == []


def test_an_answer_that_nobody_carried_out_is_swept_up(waiting: Waiting) -> None:
    waiting.answer(approved=True)  # and then the process died
    assert process_pending(waiting.ctx) == [DECISION]
    assert waiting.registry.alias("champion") == 2


def test_a_yes_to_a_decision_against_a_champion_that_is_gone_moves_nothing(waiting: Waiting) -> None:
    make_live(waiting.ctx, waiting.registry, 3)
    waiting.answer(approved=True)
    assert apply_approval(waiting.ctx, DECISION) is None
    assert waiting.registry.alias("champion") == 3
    assert "the champion changed from 1 to 3" in str(waiting.cycle().reason)
    assert apply_approval(waiting.ctx, DECISION) is None, "whoever carries it out later does not fail"


def test_carried_out_in_two_places_at_once_it_is_released_once(waiting: Waiting) -> None:
    waiting.answer(approved=True)
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: apply_approval(waiting.ctx, DECISION), range(4)))
    assert {d.id for d in done if d} == {deployments.live(waiting.ctx.engine).id}  # type: ignore[union-attr]
    assert waiting.registry.alias("champion") == 2


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (Approval("nope", True, "ann", ""), NotFoundError),
        (Approval(DECISION, True, " ", ""), InvalidInputError),
        (Approval(DECISION, False, "ann", " "), InvalidInputError),
    ],
)
def test_answers_that_do_not_fit_are_refused(waiting: Waiting, given: Approval, error: type[Exception]) -> None:
    with pytest.raises(error):
        approvals.answer(waiting.ctx.engine, given, 24)
    assert waiting.answers() == []


def test_a_decision_that_needs_nobody_takes_no_answer(waiting: Waiting) -> None:
    with transaction(waiting.ctx.engine) as connection:
        record(connection, Decision("cd34", 3, 1, None, "reject", "worse", "gate", {}))
    with pytest.raises(ConflictError, match="does not need an approval: its verdict is reject"):
        approvals.answer(waiting.ctx.engine, Approval("cd34", True, "ann", ""), 24)


@pytest.mark.parametrize(("word", "champion", "code"), [("approve", 2, 0), ("reject", 1, 0)])
def test_the_shell_answers_and_lists(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch, word: str, champion: int, code: int
) -> None:
    monkeypatch.setattr(output, "connected", lambda: waiting.ctx)
    monkeypatch.setattr("ml.cli.gate.connected", lambda: waiting.ctx)
    run = CliRunner().invoke(app, [word, DECISION, "--reason", "I looked", "--as", "ann", "--json"])
    assert run.exit_code == code, run.output
    assert waiting.registry.alias("champion") == champion
    listed = CliRunner().invoke(app, ["decisions", "--json"])
    rows = {row["id"]: row for row in json.loads(listed.output)}
    assert (rows[DECISION]["approval_actor"], rows[DECISION]["approval_approved"]) == ("ann", word == "approve")
    again = CliRunner().invoke(app, ["reject" if word == "approve" else "approve", DECISION, "--reason", "no"])
    assert isinstance(again.exception, ConflictError)


BODY = {"approved": True, "actor": "ann", "reason": "looked"}
PATH = f"/v1/decisions/{DECISION}/approval"


def client(ctx: Context, peer: str = "127.0.0.1", host: str = "127.0.0.1:8000") -> TestClient:
    return TestClient(build(ctx.settings, {}), base_url=f"http://{host}", client=(peer, 5))


def test_rest_takes_an_answer_down_from_this_machine(waiting: Waiting) -> None:
    with client(waiting.ctx) as http:
        kept = http.post(PATH, json=BODY)
        assert (kept.status_code, kept.json()["actor"]) == (200, "ann by REST")
        assert http.post(PATH, json=BODY).status_code == 200
        other = http.post(PATH, json={**BODY, "approved": False})
        assert (other.status_code, other.json()["code"]) == (409, "conflict")
        assert http.post("/v1/decisions/ffff/approval", json=BODY).status_code == 404
        assert http.post(PATH, json={"approved": True}).status_code == 422
    assert process_pending(waiting.ctx) == [DECISION]
    assert waiting.registry.alias("champion") == 2


@pytest.mark.parametrize(
    ("peer", "host", "headers"),
    [
        ("10.0.0.7", "127.0.0.1", {}),
        ("127.0.0.1", "evil.example", {}),
        ("127.0.0.1", "127.0.0.1", {"origin": "http://evil.example"}),
        ("127.0.0.1", "127.0.0.1", {"origin": "null"}),
        ("127.0.0.1", "127.0.0.1", {"x-forwarded-for": "127.0.0.1"}),
        ("127.0.0.1", "127.0.0.1", {"forwarded": "for=10.0.0.7"}),
    ],
    ids=["elsewhere", "rebound name", "another site's page", "sandboxed page", "through a proxy", "through another"],
)
def test_rest_refuses_everybody_else(waiting: Waiting, peer: str, host: str, headers: dict[str, str]) -> None:
    with client(waiting.ctx, peer, host) as http:
        refused = http.post(PATH, json=BODY, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (401, "no_key")
    assert refused.headers["content-type"] == "application/problem+json"
    assert waiting.answers() == []
