"""Canaries and shadows in the real service: judged, promoted and turned down by themselves, and never seen to fail."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from sqlalchemy import select

from ml.catalog import cycles, decisions, deployments
from ml.catalog.decisions import Decision
from ml.catalog.deployments import DeploymentHistoryRecord
from ml.catalog.engine import advisory_lock, transaction
from ml.catalog.tables import disagreements
from ml.context import Context, connect
from ml.models import bundle
from ml.release import operator
from ml.release.deploy import LOCK, Deployment, repair_registry
from ml.release.release import release
from tests.bundles import loaded, make_bundle, upload
from tests.doubles import registry as doubles
from tests.file_registry import FileRegistry, install
from tests.pictures import digits
from tests.servers import Servers, wait_until
from tests.serving_process import Hammer, Service, service, wait_logged, wait_replicas

LABELS = ("ant", "bee", "cat")
PICTURES = [data for _, data in digits()[:40]]
GOOD, FAILING, OTHER, LARGE, DULL = 2, 3, 4, 5, 6
CHAMPION = 1


@dataclass
class System:
    """A service of two workers with version 1 live, and candidates of every kind in the registry."""

    ctx: Context
    registry: FileRegistry
    service: Service
    folder: Path

    def decide(self, version: int) -> Decision:
        decision = Decision(f"d{version}", version, CHAMPION, None, "promote", "it is better", "gate", {})
        with transaction(self.ctx.engine) as connection:
            decisions.record(connection, decision)
        cycles.open_cycle(self.ctx.engine, f"c{version}", "manual")
        return decision

    def tried_by_itself(self, version: int, strategy: str) -> DeploymentHistoryRecord:
        """Begin a trial as the gate does, and only wait for what the service makes of it; the ledger's row."""
        settings = self.ctx.settings.model_copy(update={"release_strategy": strategy})
        ctx = replace(self.ctx, settings=settings)
        doubles.install(ctx, self.registry)
        begun = release(ctx, self.decide(version).id, cycle_id=f"c{version}")
        assert begun is not None
        assert (begun.status, begun.strategy) == ("trial", strategy)
        wait_until(lambda: self.row(begun).finished_at is not None, what=f"the end of {begun}")
        ended = release(ctx, f"d{version}", cycle_id=f"c{version}")
        assert ended is not None
        assert ended.id == begun.id
        wait_replicas(self.ctx, lambda replica: replica["candidate_deployment_id"] is None)
        return self.row(begun)

    def add_as_good(self, version: int) -> None:
        """Register a model that answers as `GOOD` does."""
        folder = self.folder / f"b{version}"
        digest = make_bundle(folder, LABELS, seed=1, bias=0.01)
        self.registry.add(version, upload(self.ctx, folder, version), digest)

    def row(self, of: Deployment) -> DeploymentHistoryRecord:
        return next(row for row in deployments.history(self.ctx.engine) if row.id == of.id)

    def back(self) -> None:
        operator.promote(self.ctx, CHAMPION, "ann", "begin anew")


@pytest.fixture(scope="module")
def system(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("trials")
    settings = servers.migrated(
        folder / "home", heartbeat_seconds=0.5, trial_answers=150, trial_share=0.4, trial_slowdown=8.0
    )
    ctx = connect(settings)
    registry = install(ctx, folder / "registry.json")
    for version, make in CANDIDATES.items():
        digest = make(folder / f"b{version}")
        registry.add(version, upload(ctx, folder / f"b{version}", version), digest)
    with service(settings, folder) as running:
        client_settings = settings.model_copy(update={"service_url": running.url})
        ctx = replace(ctx, settings=client_settings)
        doubles.install(ctx, registry)
        wait_until(lambda: len(deployments.live_replicas(ctx.engine, 0.5)) == 2)
        assert operator.promote(ctx, CHAMPION, "ann", "to begin with").status == "live"
        yield System(ctx, registry, running, folder)


def failing(folder: Path) -> str:
    """Passes its probes, and gives no number for images that are bright in the middle."""
    weights = np.random.default_rng(1).normal(0, 0.5, (64, 3)).astype(np.float32)
    middle = [8 * 3 + 3, 8 * 3 + 4, 8 * 4 + 3]
    make_bundle(folder, LABELS, weights=weights)
    images, _ = bundle.load_probes((folder / bundle.PROBES).read_bytes())
    images.reshape(len(images), -1)[:, middle] = 0
    expected = loaded(folder).predict(images)
    weights[middle] = 2e38
    make_bundle(folder, LABELS, weights=weights)
    np.savez(folder / bundle.PROBES, images=images, probabilities=expected)
    return bundle.write(folder, bundle.parse((folder / bundle.INFO).read_bytes()))


def dull(folder: Path) -> str:
    """As the champion, but hardly sure of anything."""
    weights = np.random.default_rng(1).normal(0, 4 / 8, (64, 3)).astype(np.float32)
    return make_bundle(folder, LABELS, weights=weights / 50)


def large(folder: Path) -> str:
    """Sure of everything, and slow: it wants each picture very large."""
    width = 640 * 640 * 3
    weights = np.random.default_rng(5).normal(0, 40 / width**0.5, (width, 3)).astype(np.float32)
    return make_bundle(folder, LABELS, size=640, channels=3, weights=weights)


CANDIDATES = {
    CHAMPION: lambda folder: make_bundle(folder, LABELS, seed=1),
    GOOD: lambda folder: make_bundle(folder, LABELS, seed=1, bias=0.01),
    FAILING: failing,
    OTHER: lambda folder: make_bundle(folder, (*LABELS, "dog"), seed=9),
    LARGE: large,
    DULL: dull,
}


def test_a_good_canary_is_promoted_by_itself_and_is_sticky(system: System) -> None:
    with Hammer(system.service.url, PICTURES).swinging(4) as hammer:
        row = system.tried_by_itself(GOOD, "canary")
        hammer.wait_for(20)
    assert hammer.failures == []
    assert (row.status, row.share) == ("live", 0.4), row.reason
    assert "no harm shown" in str(row.reason)
    assert system.registry.alias("champion") == GOOD
    assert cycles.get(system.ctx.engine, f"c{GOOD}").live_at is not None
    versions = {a["model_version"] for a in hammer.answers}
    assert versions == {CHAMPION, GOOD}
    wait_logged(system.ctx, hammer)
    system.back()


def test_a_canary_that_fails_is_turned_down_by_itself_and_nobody_sees_it(system: System) -> None:
    with Hammer(system.service.url, PICTURES).swinging(4) as hammer:
        row = system.tried_by_itself(FAILING, "canary")
        hammer.wait_for(20)
    assert hammer.failures == [], "the live model answers what the candidate cannot"
    assert row.status == "failed"
    assert "worse by errors" in str(row.reason)
    assert system.registry.alias("champion") == CHAMPION
    assert cycles.get(system.ctx.engine, f"c{FAILING}").verdict == "reject"
    assert {a["model_version"] for a in hammer.answers[-10:]} == {CHAMPION}


def test_a_canary_that_is_slow_or_unsure_is_turned_down(system: System) -> None:
    with Hammer(system.service.url, PICTURES).swinging(2):
        slow = system.tried_by_itself(LARGE, "canary")
        unsure = system.tried_by_itself(DULL, "canary")
    blamed = [str(row.reason).partition(" (")[0] for row in (slow, unsure)]
    assert (slow.status, "latency" in blamed[0]) == ("failed", True), slow.reason
    assert (unsure.status, blamed[1]) == ("failed", "worse by confidence"), unsure.reason


def test_a_shadow_is_unseen_and_its_disagreements_are_kept(system: System) -> None:
    with Hammer(system.service.url, PICTURES).swinging(4) as hammer:
        row = system.tried_by_itself(OTHER, "shadow")
    assert hammer.failures == []
    assert {a["model_version"] for a in hammer.answers} == {CHAMPION}
    assert (row.status, "other labels" in str(row.reason)) == ("failed", True), row.reason
    with transaction(system.ctx.engine) as connection:
        rows = connection.execute(select(disagreements).where(disagreements.c.deployment_id == row.id)).all()
    answered = {a["id"]: a for a in hammer.answers}
    assert rows
    for one in rows:
        assert one.live_label == answered[str(one.prediction_id)]["label"]
        assert one.candidate_label != one.live_label
        assert one.candidate_label in (*LABELS, "dog")


def test_a_shadow_that_agrees_is_promoted(system: System) -> None:
    system.add_as_good(8)
    with Hammer(system.service.url, PICTURES).swinging(4):
        row = system.tried_by_itself(8, "shadow")
    assert (row.status, row.findings["answers"] >= 150) == ("live", True), row.reason
    system.back()


def test_an_operator_by_rest_and_on_the_console_though_the_registry_is_away(system: System) -> None:
    url, why = system.service.url + "/v1/admin", "worse at <b>night</b>"
    system.add_as_good(9)
    assert operator.promote(system.ctx, 9, "ann", "to go back from").status == "live"
    back = httpx.post(f"{url}/rollback", json={"actor": "ann", "reason": why}, timeout=60)
    reply = back.json()
    assert (back.status_code, reply["status"], reply["model_version"], reply["replicas"]) == (200, "live", CHAMPION, 2)
    assert "aliases follow later" in reply["reason"]
    assert system.registry.alias("champion") == 9
    with advisory_lock(system.ctx.engine, LOCK):
        repair_registry(system.ctx)
    assert system.registry.aliases() == {"champion": CHAMPION, "previous": 9}
    newest, before = httpx.get(f"{url}/deployments", params={"limit": 2}).json()["deployments"]
    assert (newest["actor"], newest["decision_reason"], newest["served_until"]) == ("operator:ann by REST", why, None)
    assert before["served_until"] == newest["served_from"]
    older = httpx.get(f"{url}/deployments", params={"before": before["id"]}).json()["deployments"]
    assert older[0]["id"] < before["id"]
    page = system.service.get("/console/deployments")
    assert page.status_code == 200
    assert "worse at &lt;b&gt;night&lt;/b&gt;" in page.text
    tried = httpx.post(
        f"{url}/promote", json={"version": 9, "actor": "ann", "reason": "try", "strategy": "canary"}, timeout=60
    )
    assert (tried.status_code, tried.json()["status"]) == (202, "trial")
    ended = httpx.post(f"{url}/rollback", json={"actor": "bob", "reason": "enough"}, timeout=60)
    assert (ended.status_code, ended.json()["model_version"]) == (200, CHAMPION)
    for path, body, status in WRONG:
        answer = httpx.post(f"{url}/{path}", json=body, timeout=60)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), body
    elsewhere = httpx.post(
        f"{url}/rollback", json={"actor": "a", "reason": "b"}, headers={"x-forwarded-for": "1.2.3.4"}
    )
    assert elsewhere.status_code == 401


WRONG = [
    ("promote", {"version": 99, "actor": "ann", "reason": "it never served, and the registry is away"}, 503),
    ("promote", {"version": 9, "actor": "ann"}, 422),
    ("promote", {"version": 9, "actor": "ann", "reason": "x", "strategy": "blue-green"}, 422),
    ("promote", {"version": 0, "actor": "ann", "reason": "x"}, 422),
    ("rollback", {"actor": "\u202e", "reason": "x"}, 422),
    ("rollback", {"actor": "ann", "reason": "   "}, 422),
    ("rollback", {"actor": "ann", "reason": "x", "to_version": 77}, 503),
]
