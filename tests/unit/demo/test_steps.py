"""A step that fails says which one, what was expected, what happened, where to look and what to do."""

import io
import time
from dataclasses import replace
from datetime import UTC, datetime

import httpx
import pytest
from rich.console import Console

from infra.demo import steps
from infra.demo.steps import StepFailedError, step
from infra.demo.watch import CycleResult, StallDetector
from ml.catalog.cycles import CycleRecord
from ml.catalog.decisions import Decision
from ml.catalog.drops import DropRecord
from ml.errors import UnavailableError
from ml.settings import Settings

REASON = "worse on corruption dim; 97.2% against 82.9% on 286 holdout samples: 44 gained, 3 lost, p < 0.0001"
NOW = datetime(2026, 1, 2, tzinfo=UTC)
REJECTED = CycleResult(
    drop=DropRecord(
        id="d",
        prefix="drops/demo-second/",
        listing_digest="0" * 64,
        format="folders",
        status="accepted",
        reason=None,
        images=10,
        accepted=10,
        quarantined=0,
        duplicates=0,
        report_key="drops/d/report.html",
        dataset_version="v2",
        ready_at=NOW,
        found_at=NOW,
        finished_at=NOW,
        findings=[],
        approved_kinds=[],
        approved_by=None,
        approved_at=None,
        approval_reason=None,
    ),
    cycle=CycleRecord(
        id="d",
        origin="drop",
        drop_id="d",
        dataset_version="v2",
        run_id="r",
        model_version=2,
        decision_id="0123456789abcdef",
        verdict="reject",
        reason=REASON,
        seconds={"claim": 0.1, "train": 15.6, "gate": 0.2},
        started_at=NOW,
        live_at=None,
        finished_at=NOW,
    ),
    decision=Decision(
        id="0123456789abcdef",
        model_version=2,
        champion_version=1,
        dataset_version="v2",
        verdict="reject",
        reason=REASON,
        actor="gate",
        statistics={},
        report_key="decisions/0123456789abcdef/report.html",
    ),
)


def console() -> Console:
    return Console(file=io.StringIO(), width=80)


def shown(failed: StepFailedError, settings: Settings | None) -> str:
    out = console()
    steps.show(failed, settings, "/home/ann/.evergreen/logs", out)
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert all(len(line) <= 80 for line in text.splitlines() if "http" not in line)
    return str(text)


def test_another_verdict_is_shown_with_its_reason_its_report_and_the_last_stage() -> None:
    with pytest.raises(StepFailedError) as caught, step("3 · A second drop", "it is promoted", console()) as this:
        this.check_verdict(REJECTED, ("promote",))
    text = " ".join(shown(caught.value, Settings()).split())
    assert "This step failed: 3 · A second drop" in text
    assert "expected it is promoted" in text
    assert f"happened the verdict was reject: {REASON}" in text
    assert "the last one done is gate" in text
    assert "/console/files/decisions/0123456789abcdef/report.html" in text
    assert "logs /home/ann/.evergreen/logs" in text
    assert "what to do open the report" in text


def test_a_stopped_drop_has_the_report_of_its_validation() -> None:
    stopped = CycleResult(REJECTED.drop, replace(REJECTED.cycle, verdict="stopped", seconds={}), None)
    with pytest.raises(StepFailedError) as caught, step("1", "it is promoted", console()) as this:
        this.check_verdict(stopped, ("promote",))
    assert "/console/files/drops/d/report.html" in shown(caught.value, Settings())


@pytest.mark.parametrize("error", [UnavailableError("Postgres is away"), httpx.ConnectError("Postgres is away")])
def test_what_a_part_cannot_do_is_the_steps_failure(error: Exception) -> None:
    with pytest.raises(StepFailedError) as caught, step("0 · The stack starts", "all is well", console()):
        raise error
    text = " ".join(shown(caught.value, None).split())
    assert "0 · The stack starts" in text
    assert "Postgres is away" in text
    assert "evergreen status" in text


def test_as_promised_nothing_is_raised() -> None:
    with step("3", "it is rejected", console()) as this:
        assert this.check_verdict(REJECTED, ("stopped", "reject")) is REJECTED


def test_patience_lasts_as_long_as_something_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    patience = StallDetector(10)
    for moved in range(20):
        clock[0] += 9
        patience.check(moved, "an epoch")
    clock[0] += 9
    patience.check(19, "an epoch")
    clock[0] += 2
    with pytest.raises(UnavailableError, match="waited for an epoch; nothing has changed for 10 s"):
        patience.check(19, "an epoch")
