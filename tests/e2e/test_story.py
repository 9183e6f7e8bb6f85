"""The demo's story on the real local stack, and what is then done to it. The tests build on each other, in order."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from sqlalchemy import func, select

from infra.demo import drops, pictures
from infra.local import layout
from ml.catalog import approvals, cycles, deployments
from ml.catalog.approvals import Approval
from ml.catalog.engine import transaction
from ml.catalog.tables import cycles as cycles_table
from ml.catalog.tables import drops as drops_table
from ml.catalog.tables import predictions, samples
from tests.e2e import airflow
from tests.e2e.stack import Stack, empty_stack
from tests.servers import wait_until


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The first test starts it."""
    with empty_stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


def test_the_story_of_three_drops(stack: Stack) -> None:
    """Started by `evergreen demo`."""
    demo = stack.evergreen("demo", check=False)
    assert demo.returncode == 0, demo.stdout[-3000:] + demo.stderr[-3000:]
    report = json.loads((stack.folder / "build/demo.json").read_text())
    first, second, third = report["cycles"]
    assert (first["verdict"], first["quarantined"], first["duplicates"]) == ("promote", 3, 1)
    assert first["champion"] is None
    assert second["verdict"] == "promote"
    assert second["challenger_accuracy"] > second["champion_accuracy"]
    assert third["verdict"] == "held"
    assert third["reason"]
    assert report["reload"]["failed"] == 0
    assert report["reload"]["requests"] > 100


def test_every_answer_is_logged_with_its_model(stack: Stack) -> None:
    report = json.loads((stack.folder / "build/demo.json").read_text())
    versions = {c["challenger"] for c in report["cycles"][:2]}
    with transaction(stack.context().engine) as connection:
        rows = connection.execute(
            select(predictions.c.model_version, func.count().label("answers")).group_by(predictions.c.model_version)
        )
        counts = {row.model_version: row.answers for row in rows}
    assert set(counts) == versions
    assert sum(counts.values()) == report["predictions_logged"]


def test_a_drop_whose_ingest_is_killed_is_ingested_exactly_once(stack: Stack) -> None:
    """Invariant 1, with kill -9 on whatever Airflow was running for it."""
    context = stack.context()
    fresh = [drops.hardened(p, seed=i) for i, p in enumerate(pictures.load(None)[-300:])]
    with transaction(context.engine) as connection:
        before = connection.execute(select(func.count()).select_from(samples)).scalar_one()
    stack.evergreen("drop", str(drops.write(fresh, stack.folder / "killed")), "--name", "killed")
    prefix = f"{context.settings.drops_prefix}killed/"

    def claimed() -> bool:
        with transaction(context.engine) as connection:
            return (
                connection.execute(select(drops_table.c.id).where(drops_table.c.prefix == prefix)).scalar() is not None
            )

    wait_until(claimed, what="the drop being claimed")
    for process in _task_processes(stack):
        os.kill(process.pid, signal.SIGKILL)

    def accepted() -> bool:
        with transaction(context.engine) as connection:
            status = connection.execute(select(drops_table.c.status).where(drops_table.c.prefix == prefix)).scalars()
            return list(status) == ["accepted"]

    wait_until(accepted, what="the killed drop being accepted")
    with transaction(context.engine) as connection:
        after = connection.execute(select(func.count()).select_from(samples)).scalar_one()
    assert after - before == len({p.data for p in fresh})


def test_nothing_is_lost_over_down_and_up(stack: Stack) -> None:
    context = stack.context()
    _wait_for_idle_cycles(stack)
    model = httpx.get(f"{context.settings.service_url}/v1/model").json()
    with transaction(context.engine) as connection:
        before = connection.execute(select(func.count()).select_from(predictions)).scalar_one()
    stack.evergreen("down")
    stack.evergreen("up")
    context = stack.context()
    wait_until(lambda: httpx.get(f"{context.settings.service_url}/readyz").status_code == 200, what="a ready service")
    assert httpx.get(f"{context.settings.service_url}/v1/model").json()["version"] == model["version"]
    with transaction(context.engine) as connection:
        assert connection.execute(select(func.count()).select_from(predictions)).scalar_one() == before


def test_status_says_that_all_is_well(stack: Stack) -> None:
    wait_until(lambda: stack.evergreen("status", check=False).returncode == 0, what="a healthy stack")


def test_decisions_are_answered_in_airflow_and_elsewhere(stack: Stack, tmp_path: Path) -> None:
    """By a click on each of the two buttons; and one that was answered elsewhere stops asking."""
    ctx = stack.context()
    asking = airflow.Airflow(layout.load(stack.home))
    version, champion = airflow.register(ctx, tmp_path / "bundle"), ctx.registry.alias("champion")
    for decision in ("a1", "b2", "c3"):
        airflow.record_decision(ctx, decision, version)
        asking.ask(decision)
    with airflow.browser(asking) as page:
        page.goto(asking.request_url("a1"))
        page.get_by_text("a person is always asked").wait_for()
        airflow.click(page, "Reject")
        assert asking.ended("a1") == {"ask": "success", "carry_out": "skipped", "": "success"}
        answer = approvals.find(ctx.engine, "a1")
        assert answer == Approval("a1", False, "admin in Airflow", "no reason given")
        assert cycles.get(ctx.engine, "c-a1").verdict == "reject"
        assert ctx.registry.alias("champion") == champion

        approvals.answer(ctx.engine, Approval("b2", False, "ann", "too dark"), 24)
        assert asking.ended("b2") == {"ask": "success", "carry_out": "skipped", "": "success"}
        assert cycles.get(ctx.engine, "c-b2").verdict == "reject"
        assert asking.response("b2") == (["Reject"], {"reason": "too dark (ann)"})
        assert asking.waiting() == ["decision-c3"]

        page.goto(asking.request_url("c3"))
        airflow.click(page, "Approve")
    assert asking.ended("c3") == {"ask": "success", "carry_out": "success", "": "success"}
    answer = approvals.find(ctx.engine, "c3")
    assert answer is not None
    assert (answer.approved, answer.actor) == (True, "admin in Airflow")
    live = deployments.live(ctx.engine)
    assert live is not None
    assert live.model_version == version == ctx.registry.alias("champion")
    assert cycles.get(ctx.engine, "c-c3").verdict == "promote"
    assert httpx.get(f"{ctx.settings.service_url}/v1/model").json()["version"] == version


def _task_processes(stack: Stack) -> list[psutil.Process]:
    """Processes of this stack's scheduler that run tasks, youngest first."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        line = " ".join(process.info["cmdline"] or [])
        ours = (process.info["environ"] or {}).get("EVERGREEN_HOME") == str(stack.home)
        if ours and "LocalExecutor" in line and "idle" not in line:
            found.append(process)
    return sorted(found, key=lambda p: p.create_time(), reverse=True)


def _wait_for_idle_cycles(stack: Stack) -> None:
    def none_open() -> bool:
        with transaction(stack.context().engine) as connection:
            running = cycles_table.c.finished_at.is_(None) & cycles_table.c.verdict.is_distinct_from("held")
            return not connection.execute(select(cycles_table.c.id).where(running)).first()

    wait_until(none_open, what="all cycles being finished")
    time.sleep(1)
