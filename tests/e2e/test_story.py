"""The demo's story on the real local stack, and what is then done to it. The tests build on each other, in order."""

import json
import os
import signal
import time
from collections.abc import Iterator

import httpx
import psutil
import pytest
from sqlalchemy import func, select

from infra.demo import drops, pictures
from ml.catalog.engine import transaction
from ml.catalog.tables import cycles, predictions, samples
from ml.catalog.tables import drops as drops_table
from tests.e2e.stack import Stack, empty_stack, tell_the_story
from tests.servers import wait_until


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The first test starts it."""
    with empty_stack(tmp_path_factory.mktemp("stack"), {}) as stack:
        yield stack


def test_the_story_of_three_drops(stack: Stack) -> None:
    tell_the_story(stack)


def test_every_answer_is_logged_with_its_model(stack: Stack) -> None:
    report = json.loads((stack.folder / "build/demo.json").read_text())
    versions = {c["challenger"] for c in report["cycles"][:2]}
    with transaction(stack.context().engine) as connection:
        rows = connection.execute(
            select(predictions.c.model_version, func.count()).group_by(predictions.c.model_version)
        )
        counts: dict[int, int] = dict(rows.tuples().all())
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
            running = cycles.c.finished_at.is_(None) & cycles.c.verdict.is_distinct_from("held")
            return not connection.execute(select(cycles.c.id).where(running)).first()

    wait_until(none_open, what="all cycles being finished")
    time.sleep(1)
