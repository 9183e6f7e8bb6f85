"""A person in a real browser answers a decision in a real Airflow; and one that was answered elsewhere stops asking."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from infra.local import layout, stack
from ml.catalog import approvals, cycles, deployments
from ml.catalog.approvals import Approval
from ml.context import Context, connect
from tests import approval_story as story
from tests.approval_story import Airflow
from tests.servers import stack_ports, wait_until

pytestmark = pytest.mark.timeout(1800)


@dataclass
class Running:
    """A stack without the service, and a model version that a person could let answer."""

    ctx: Context
    airflow: Airflow
    version: int

    def ask(self, decision: str) -> None:
        """Until it waits."""
        story.wait_for_person(self.ctx, decision, self.version)
        self.airflow.ask(decision)
        wait_until(lambda: f"decision-{decision}" in self.airflow.waiting(), "the request in Airflow")

    def ended(self, decision: str) -> dict[str, str]:
        """The states of its tasks when its run is over."""
        wait_until(lambda: self.airflow.states(decision)[""] in ("success", "failed"), "the end of the run")
        return self.airflow.states(decision)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("stack")
    home = folder / "home"
    ports = {name.removeprefix("EVERGREEN_PORT_").lower(): int(port) for name, port in stack_ports().items()}
    try:
        stack.up(home, only=["mlflow", "airflow"], ports=ports)
        here = layout.load(home)
        ctx = connect(here.settings())
        yield Running(ctx, Airflow(here), story.register(ctx, folder / "bundle"))
    finally:
        stack.down(home)


def test_a_click_on_reject_is_kept_with_the_name(running: Running) -> None:
    running.ask("a1")
    with story.browser(running.airflow) as page:
        page.goto(f"{running.airflow.url}/dags/approve/runs/decision-a1/tasks/ask/required_actions")
        page.get_by_text("a person is always asked").wait_for()
        story.click(page, "Reject")
    assert running.ended("a1") == {"ask": "success", "carry_out": "skipped", "": "success"}
    kept = approvals.find(running.ctx.engine, "a1")
    assert kept == Approval("a1", False, "admin in Airflow", "no reason given")
    assert cycles.get(running.ctx.engine, "c-a1").verdict == "reject"
    assert running.ctx.registry.alias("champion") is None


def test_an_answer_from_elsewhere_ends_the_asking(running: Running) -> None:
    running.ask("b2")
    approvals.answer(running.ctx.engine, Approval("b2", False, "ann", "too dark"), 24)
    assert running.ended("b2") == {"ask": "success", "carry_out": "skipped", "": "success"}
    assert cycles.get(running.ctx.engine, "c-b2").verdict == "reject"
    assert running.airflow.waiting() == []


def test_a_click_on_approve_releases_the_model(running: Running) -> None:
    running.ask("c3")
    with story.browser(running.airflow) as page:
        page.goto(f"{running.airflow.url}/dags/approve/runs/decision-c3/tasks/ask/required_actions")
        story.click(page, "Approve")
    assert running.ended("c3") == {"ask": "success", "carry_out": "success", "": "success"}
    kept = approvals.find(running.ctx.engine, "c3")
    assert kept is not None
    assert (kept.approved, kept.actor) == (True, "admin in Airflow")
    live = deployments.live(running.ctx.engine)
    assert live is not None
    assert live.model_version == running.version == running.ctx.registry.alias("champion")
    assert cycles.get(running.ctx.engine, "c-c3").verdict == "promote"
