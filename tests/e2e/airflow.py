"""Decisions that need a person, and the running Airflow that asks: by its REST API, and in a browser."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Page, sync_playwright

from infra.local.layout import Layout
from ml.catalog import cycles
from ml.catalog.decisions import Decision, record
from ml.catalog.engine import transaction
from ml.context import Context
from ml.models import bundle
from tests.bundles import make_bundle
from tests.servers import wait_until

_PATIENCE = 300_000  # milliseconds: tests share few cores


def register(ctx: Context, folder: Path) -> int:
    """A version in MLflow with a real bundle; return its number."""
    make_bundle(folder, "01")
    client = ctx.tracking
    run = client.create_run(client.create_experiment("approval")).info.run_id
    return ctx.registry.register(run, folder, bundle.parse((folder / bundle.INFO).read_bytes()), {})


def record_decision(ctx: Context, decision_id: str, version: int) -> None:
    """Decide that a person must say whether the version replaces the champion, in a cycle ``c-<decision_id>``."""
    cycle_id = f"c-{decision_id}"
    champion = ctx.registry.alias("champion")
    reason = "a person is always asked"
    cycles.open_cycle(ctx.engine, cycle_id, "manual")
    with transaction(ctx.engine) as connection:
        record(connection, Decision(decision_id, version, champion, None, "needs_person", reason, "gate", {}, "none"))
    cycles.record(ctx.engine, cycle_id, decision_id=decision_id, verdict="needs_person", model_version=version)


class Airflow:
    """Its REST API, called as the admin."""

    def __init__(self, layout: Layout) -> None:
        self.url = f"http://{layout.address('airflow')}"
        self.login = {"username": "admin", "password": layout.secrets["airflow_admin"]}
        self._http = httpx.Client(base_url=self.url, timeout=60)
        token = self._http.post("/auth/token", json=self.login).raise_for_status().json()["access_token"]
        self._http.headers["authorization"] = f"Bearer {token}"

    def request_url(self, decision: str) -> str:
        """Its page in the UI."""
        return f"{self.url}/dags/approve/runs/decision-{decision}/tasks/ask/required_actions"

    def ask(self, decision: str) -> None:
        """Start the run of `approve`, as `train` does, as soon as the DAG is known; return when it waits."""
        body = {"logical_date": None, "dag_run_id": f"decision-{decision}", "conf": {"decision_id": decision}}
        deadline = time.monotonic() + 300
        while (answer := self._http.post("/api/v2/dags/approve/dagRuns", json=body)).status_code == 404:
            if time.monotonic() > deadline:
                break
            time.sleep(1)
        answer.raise_for_status()
        wait_until(lambda: f"decision-{decision}" in self.waiting(), "the request in Airflow")

    def ended(self, decision: str) -> dict[str, str]:
        """As `states`, when the run is over."""
        wait_until(lambda: self.states(decision)[""] in ("success", "failed"), "the end of the run")
        return self.states(decision)

    def states(self, decision: str) -> dict[str, Any]:
        """Of the run, and of its tasks."""
        run = f"/api/v2/dags/approve/dagRuns/decision-{decision}"
        tasks = self._http.get(f"{run}/taskInstances").raise_for_status().json()["task_instances"]
        return {t["task_id"]: t["state"] for t in tasks} | {"": self._http.get(run).raise_for_status().json()["state"]}

    def response(self, decision: str) -> tuple[list[str], dict[str, str]]:
        """What the request shows as chosen, and the form's fields."""
        path = f"/api/v2/dags/approve/dagRuns/decision-{decision}/taskInstances/ask/-1/hitlDetails"
        request = self._http.get(path).raise_for_status().json()
        return request["chosen_options"], request["params_input"]

    def waiting(self) -> list[str]:
        """Runs whose request is open, as the UI's list of what waits asks for them."""
        path = "/api/v2/dags/~/dagRuns/~/hitlDetails"
        found = (
            self._http.get(path, params={"response_received": False, "state": ["awaiting_input", "deferred"]})
            .raise_for_status()
            .json()
        )
        return [detail["task_instance"]["dag_run_id"] for detail in found["hitl_details"]]


@contextmanager
def browser(airflow: Airflow) -> Iterator[Page]:
    """Chromium, logged in."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(_PATIENCE)
        page.goto(f"{airflow.url}/auth/login/")
        page.fill('input[name="username"]', airflow.login["username"])
        page.fill('input[name="password"]', airflow.login["password"])
        page.click('button[type="submit"]')
        page.wait_for_url(lambda url: "/login" not in url)
        yield page
        chromium.close()


def click(page: Page, name: str) -> None:
    """One of the two buttons; returns when Airflow has taken it."""
    with page.expect_response(lambda r: r.url.endswith("/hitlDetails") and r.request.method == "PATCH") as answered:
        page.get_by_role("button", name=name).click()
    if not answered.value.ok:
        raise RuntimeError(f"Airflow answers {answered.value.status} to the click")
