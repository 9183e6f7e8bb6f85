"""Releases against replicas of every temper, services that answer anything, and movers that are killed."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError

from ml.catalog import cycles, decisions, deployments
from ml.catalog.decisions import Decision
from ml.catalog.engine import advisory_lock, transaction
from ml.catalog.tables import deployments as ledger
from ml.catalog.tables import predictions
from ml.context import Context
from ml.errors import ConflictError, InvalidInputError, NotFoundError
from ml.models.registry import BundleLocation
from ml.release import aliases, operator
from ml.release.deploy import LOCK, Deployment, conclude_interrupted, deploy_decision, repair_registry
from ml.release.release import release
from tests.bundles import make_bundle, upload
from tests.doubles import registry as doubles
from tests.environment import environment
from tests.file_registry import FileRegistry, install
from tests.pictures import digits
from tests.servers import wait_until
from tests.serving_process import Hammer, service, wait_logged, wait_replicas
from tests.table_replica import Reply, Temper, answering, dead_replica, honest, replica

LABELS = ("ant", "bee", "cat")


@dataclass
class System:
    """A registry of versions 1 to 4, of which 1 is live; and a service that answers as it should."""

    ctx: Context
    registry: FileRegistry
    folders: dict[int, Path]

    def decide(self, version: int, against: int | None = 1) -> Decision:
        decision = Decision(f"d{version}-{against}", version, against, None, "promote", "it is better", "gate", {})
        with transaction(self.ctx.engine) as connection:
            decisions.record(connection, decision)
        return decision

    def cycle(self, version: int) -> str:
        cycles.open_cycle(self.ctx.engine, f"c{version}", "manual")
        return f"c{version}"

    def desired_version(self) -> int | None:
        with transaction(self.ctx.engine) as connection:
            row = deployments.desired(connection)
        return row.model_version if row else None

    def rows(self) -> list[tuple[int, str]]:
        with transaction(self.ctx.engine) as connection:
            query = select(ledger.c.model_version, ledger.c.status).order_by(ledger.c.id)
            return [(version, status) for version, status in connection.execute(query)]

    def asking(self, url: str, **settings: object) -> Context:
        """The same system for a mover that finds the service at `url`."""
        other = replace(self.ctx, settings=self.ctx.settings.model_copy(update={"service_url": url, **settings}))
        doubles.install(other, self.registry)
        return other

    def unmoved(self) -> bool:
        return self.registry.alias("champion") == 1 and self.desired_version() == 1


@pytest.fixture
def empty(make_context: Callable[..., Context], tmp_path: Path) -> System:
    """As `System`, but nothing was released yet."""
    ctx = make_context(release_timeout=60.0, heartbeat_seconds=1.0)
    system = System(ctx, install(ctx, tmp_path / "registry.json"), {})
    for version in (1, 2, 3, 4):
        folder = tmp_path / f"bundle-{version}"
        digest = make_bundle(folder, LABELS, seed=version, probe_shift=0.3 if version == 4 else 0.0)
        system.registry.add(version, upload(ctx, folder, version), digest)
        system.folders[version] = folder
    return system


@pytest.fixture
def system(empty: System) -> System:
    first = deploy_decision(empty.ctx, empty.decide(1, None), None)
    assert (first.status, first.replicas) == ("live", 0)
    assert "no replica was running" in str(first.reason)
    return empty


@pytest.fixture
def honest_url(system: System) -> Iterator[str]:
    with answering(honest(system.ctx, system.folders)) as url:
        yield url


def test_the_real_service_follows_promotion_refusal_and_rollback(empty: System, tmp_path: Path) -> None:
    pictures = [data for _, data in digits()[:10]]
    calm = {"release_timeout": 300.0, "heartbeat_seconds": 2.0}
    with service(empty.ctx.settings.model_copy(update=calm), tmp_path) as running:
        wait_replicas(empty.ctx, lambda row: row["deployment_id"] is None)
        assert running.ask(pictures[0]).status_code == 503
        ctx = empty.asking(running.url, **calm)
        first = release(ctx, empty.decide(1, None).id, cycle_id=empty.cycle(1))
        assert first is not None
        assert (first.status, first.replicas) == ("live", 2)
        with Hammer(running.url, pictures).swinging(3) as hammer:
            hammer.wait_for(20)
            assert release(ctx, empty.decide(2).id) is not None
            hammer.wait_for(20)
            bad = operator.promote(ctx, 4, "ann", "its probes do not match")
            assert (bad.status, "golden probes differ" in str(bad.reason)) == ("failed", True)
            assert running.get("/v1/model").json()["version"] == 2
            back = operator.rollback(ctx, "ann", "the old one was better")
            assert (back.status, back.model_version, back.replicas) == ("live", 1, 2)
            hammer.wait_for(20)
        assert hammer.failures == []
        assert hammer.answers[-1]["model_version"] == 1
        wait_logged(ctx, hammer)
    answered = len(hammer.answers)
    with transaction(empty.ctx.engine) as connection:
        assert connection.execute(select(func.count()).select_from(predictions)).scalar() == answered, (
            "probes are logged"
        )
    assert empty.registry.aliases() == {"champion": 1, "previous": 2}
    row = cycles.get(empty.ctx.engine, "c1")
    assert (row.verdict, row.live_at is not None, row.finished_at is not None) == ("promote", True, True)
    assert "release" in row.seconds


def test_the_first_release_of_all_fails_and_leaves_nothing(empty: System) -> None:
    with replica(empty.ctx, "r1", "refuses"):
        done = release(empty.ctx, empty.decide(1, None).id, cycle_id=empty.cycle(1))
    assert done is not None
    assert done.status == "failed"
    assert empty.registry.aliases() == {}
    assert empty.desired_version() is None
    row = cycles.get(empty.ctx.engine, "c1")
    assert (row.verdict, row.live_at) == ("reject", None)
    assert "probe is off by 0.5" in str(row.reason)


TEMPERS: list[tuple[Temper, str]] = [
    ("refuses", "replica r2 refused it: probe is off by 0.5"),
    ("ignores", "1 of 2 replicas did not load it within 3.0 s"),
]


@pytest.mark.parametrize(("temper", "words"), TEMPERS)
def test_one_unwilling_replica_brings_everything_back(
    system: System, honest_url: str, temper: Temper, words: str
) -> None:
    ctx = system.asking(honest_url, release_timeout=3.0 if temper == "ignores" else 60.0)
    with replica(ctx, "r1"), replica(ctx, "r2", temper):
        done = release(ctx, system.decide(2).id)
    assert done is not None
    assert (done.status, done.reason) == ("failed", words)
    assert system.unmoved()
    assert system.rows() == [(1, "live"), (2, "failed")]
    assert decisions.get(ctx.engine, "d2-1").verdict == "promote", "the decision is kept"


def test_a_bundle_that_kills_every_replica_is_not_live(system: System) -> None:
    with replica(system.ctx, "r1", "dies"), replica(system.ctx, "r2", "dies"):
        done = deploy_decision(system.asking("http://127.0.0.1:9"), system.decide(2), 1)
    assert done.status == "failed"
    assert "vanished" in str(done.reason)
    assert system.unmoved()


def test_a_replica_that_died_before_is_not_waited_for(system: System, honest_url: str) -> None:
    dead_replica(system.ctx, "dead")
    with replica(system.ctx, "r1"):
        done = deploy_decision(system.asking(honest_url), system.decide(2), 1)
    assert (done.status, done.replicas, done.previous_version) == ("live", 1, 1)
    assert system.registry.aliases() == {"champion": 2, "previous": 1}


WRONG: dict[str, Reply | str] = {
    "not JSON": (200, b"<html>another service</html>"),
    "other JSON": (200, b'{"status": "ok"}'),
    "a list": (200, b"[1]"),
    "an error": (500, b"boom"),
    "always overloaded": (503, b"{}"),
    "wrong label": (200, orjson.dumps({"model_version": 2, "label": "dog", "probability": 0.5})),
    "wrong version": (200, orjson.dumps({"model_version": 1, "label": "ant", "probability": 0.5})),
    "not a number": (200, orjson.dumps({"model_version": 2, "label": "ant", "probability": None})),
    "nobody": "http://127.0.0.1:9",
    "no address": "http://[::1",
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_service_that_answers_probes_wrongly_undoes_the_release_and_blocks_nobody(
    system: System, honest_url: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = WRONG[kind]
    with ExitStack() as stack:
        stack.enter_context(replica(system.ctx, "r1"))
        url = wrong if isinstance(wrong, str) else stack.enter_context(answering(lambda _: wrong))
        with monkeypatch.context() as impatient:
            impatient.setattr("ml.release.verify.TIMEOUT_SECONDS", 0.5)
            done = deploy_decision(system.asking(url), system.decide(2), 1)
        assert (done.status, bool(done.reason)) == ("failed", True)
        assert system.unmoved()
        assert deploy_decision(system.asking(honest_url), system.decide(3), 1).status == "live", (
            "the next mover is free"
        )


def test_a_busy_or_restarting_service_is_asked_again(system: System) -> None:
    true, asked = honest(system.ctx, system.folders), []

    def reply(body: bytes) -> Reply:
        asked.append(body)
        late = orjson.dumps({"model_version": 1, "label": "ant", "probability": 0.5})
        return (503, b"{}") if len(asked) < 3 else (200, late) if len(asked) == 3 else true(body)

    with answering(reply) as url, replica(system.ctx, "r1"):
        assert deploy_decision(system.asking(url), system.decide(2), 1).status == "live"


def test_of_two_releases_at_once_one_moves_and_the_other_conflicts(system: System, honest_url: str) -> None:
    ctx = system.asking(honest_url)
    outcomes: dict[int, Deployment | str] = {}

    def mover(version: int) -> None:
        try:
            outcomes[version] = deploy_decision(ctx, system.decide(version), 1)
        except ConflictError as error:
            outcomes[version] = str(error)

    with replica(ctx, "r1"):
        threads = [threading.Thread(target=mover, args=(version,)) for version in (2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    (won,) = [v for v, f in outcomes.items() if isinstance(f, Deployment)]
    assert f"the champion changed from 1 to {won}" in str(outcomes[5 - won])
    assert system.registry.alias("champion") == won
    assert system.rows() == [(1, "superseded"), (won, "live")]


def test_a_cycle_whose_champion_changed_meanwhile_says_so(system: System) -> None:
    system.decide(2)
    operator.promote(system.ctx, 3, "ann", "now")
    assert release(system.ctx, "d2-1", cycle_id=system.cycle(2)) is None
    row = cycles.get(system.ctx.engine, "c2")
    assert row.verdict == "reject"
    assert "the champion changed from 1 to 3" in str(row.reason)
    assert system.registry.alias("champion") == 3


def test_releasing_again_does_not_undo_what_an_operator_did_since(system: System) -> None:
    decision = system.decide(2)
    assert release(system.ctx, decision.id, cycle_id=system.cycle(2)) is not None
    before = cycles.get(system.ctx.engine, "c2")
    operator.rollback(system.ctx, "ann", "it is worse on my photos")
    again = release(system.ctx, decision.id, cycle_id="c2")
    assert again is not None
    assert again.status == "superseded"
    assert system.unmoved()
    assert system.rows() == [(1, "superseded"), (2, "superseded"), (1, "live")]
    after = cycles.get(system.ctx.engine, "c2")
    assert (after.verdict, after.reason, after.live_at) == (before.verdict, before.reason, before.live_at)


def test_a_release_that_failed_is_not_tried_again_by_itself(system: System) -> None:
    with replica(system.ctx, "r1", "refuses"):
        first = release(system.ctx, system.decide(2).id)
    again = release(system.ctx, "d2-1")
    assert first is not None
    assert again is not None
    assert (again.id, again.status, again.reason) == (first.id, "failed", first.reason)
    assert system.unmoved()


KILLED = """
import os, sys
from pathlib import Path
from ml.context import connect
from ml.settings import Settings
from tests.file_registry import install
ctx = connect(Settings.load(os.environ))
install(ctx, Path(sys.argv[1])).kill_after = sys.argv[2]
from ml.release.release import release
release(ctx, sys.argv[3], cycle_id=sys.argv[4])
"""


@pytest.mark.parametrize("alias", ["previous", "champion"])
def test_a_mover_killed_while_the_aliases_move_is_concluded(system: System, tmp_path: Path, alias: str) -> None:
    decision, cycle = system.decide(2), system.cycle(2)
    arguments = [str(tmp_path / "registry.json"), alias, decision.id, cycle]
    child = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments],
        env=environment(system.ctx.settings) | {"PATH": "/usr/bin", "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert child.returncode == -9, child.stderr
    assert system.rows() == [(1, "live"), (2, "rolling")]
    done = release(system.ctx, decision.id, cycle_id=cycle)
    assert done is not None
    assert done.status == "live"
    assert system.rows() == [(1, "superseded"), (2, "live")]
    assert system.registry.aliases() == {"champion": 2, "previous": 1}
    assert cycles.get(system.ctx.engine, cycle).verdict == "promote"


def test_a_killed_mover_whose_replicas_refuse_is_undone_by_the_next(system: System, honest_url: str) -> None:
    decision, place = system.decide(2), system.registry.bundle(2)
    with transaction(system.ctx.engine) as connection:
        deployments.begin(
            connection,
            model_version=2,
            previous_version=1,
            decision_id=decision.id,
            bundle_prefix=place.prefix,
            bundle_digest=place.digest,
        )
    with replica(system.ctx, "r1", "refuses"):
        conclude_interrupted(system.ctx)
    assert system.unmoved()
    assert system.rows() == [(1, "live"), (2, "failed")]


def test_versions_deleted_in_the_registry_block_nobody(system: System) -> None:
    assert deploy_decision(system.ctx, system.decide(2), 1).status == "live"
    system.registry.remove(1)  # the previous one
    assert deploy_decision(system.ctx, system.decide(3, 2), 2).status == "live"
    system.registry.remove(3)  # the champion itself
    assert operator.promote(system.ctx, 2, "ann", "3 was deleted").status == "live"
    assert system.registry.alias("champion") == 2
    assert operator.rollback(system.ctx, "ann", "to what was deleted", to_version=1).status == "live"
    shown = system.registry.aliases()["champion"]
    assert system.registry.bundle(shown) == system.ctx.registry.bundle(1), "it is registered again, by another number"
    assert system.ctx.registry.aliases() == {"champion": 1, "previous": 2}


def test_a_version_deleted_while_it_rolls_out_is_not_live(system: System) -> None:
    class Vanishing(FileRegistry):
        def set_alias(self, name: str, version: int | None) -> None:
            if name == "champion" and version == 2:
                self.remove(version)
            super().set_alias(name, version)

    doubles.install(system.ctx, Vanishing(system.registry._path))
    done = deploy_decision(system.ctx, system.decide(2), 1)
    assert done.status == "failed"
    assert "no version 2" in str(done.reason)
    assert system.unmoved()


def test_a_mover_that_lost_its_lock_to_another_conflicts(system: System) -> None:
    class Rival(FileRegistry):
        def bundle(self, version: int) -> BundleLocation:
            """Another mover begins in this very moment."""
            with suppress(IntegrityError), transaction(system.ctx.engine) as connection:
                values = {"decision_id": "d1-None", "bundle_prefix": "p", "bundle_digest": "d"}
                deployments.begin(connection, model_version=3, previous_version=1, **values)
            return super().bundle(version)

    doubles.install(system.ctx, Rival(system.registry._path))
    with pytest.raises(ConflictError, match="another deployment"):
        deploy_decision(system.ctx, system.decide(2), 1)


def test_what_people_changed_in_the_registry_is_corrected_and_reported(system: System) -> None:
    assert deploy_decision(system.ctx, system.decide(2), 1).status == "live"
    assert repair_registry(system.ctx) == []
    system.registry.set_alias("champion", 3)
    assert repair_registry(system.ctx) == ["the alias champion named version 3, but version 2 is live: corrected"]
    assert system.registry.aliases() == {"champion": 2, "previous": 1}
    system.registry.clear()  # as after renaming the registered model
    lost, alias = repair_registry(system.ctx)
    assert "version 2 was missing in the registry: registered again" in lost
    assert "named no version" in alias
    assert repair_registry(system.ctx) == []
    (lost,) = aliases.repair(system.ctx, with_earlier=True)
    assert "version 1 was missing" in lost
    assert system.ctx.registry.aliases() == {"champion": 2}
    assert system.registry.aliases() == {"champion": 1}, "by the registry's own numbers"


def test_a_challenger_that_was_deleted_before_its_release_moves_nothing(system: System) -> None:
    decision = system.decide(2)
    system.ctx.registry.bundle(2)  # the catalog knows it
    system.registry.remove(2)
    assert release(system.ctx, decision.id, cycle_id=system.cycle(2)) is None
    row = cycles.get(system.ctx.engine, "c2")
    assert (row.verdict, row.finished_at is not None) == ("reject", True)
    assert "no version 2 any more" in str(row.reason)
    assert system.rows() == [(1, "live")], "no worker ever loaded it"


def test_of_two_rollbacks_at_once_the_second_does_not_undo_the_first(system: System) -> None:
    assert deploy_decision(system.ctx, system.decide(2), 1).status == "live"
    waiting = text(
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'advisory'"
    )

    def both_wait() -> bool:
        with transaction(system.ctx.engine) as connection:
            return bool(connection.execute(waiting).scalar() == 2)

    with ThreadPoolExecutor(2) as pool, advisory_lock(system.ctx.engine, LOCK):
        rollbacks = [pool.submit(operator.rollback, system.ctx, "ann", "it is bad") for _ in range(2)]
        wait_until(both_wait, "both at the lock")
    assert [rolled.result().model_version for rolled in rollbacks] == [1, 1]
    assert system.rows() == [(1, "superseded"), (2, "superseded"), (1, "live")]


@pytest.mark.parametrize(("actor", "reason"), [("", "why"), ("  ", "why"), ("ann", ""), ("ann", "\n ")])
def test_an_operator_has_a_name_and_a_reason(system: System, actor: str, reason: str) -> None:
    with pytest.raises(InvalidInputError):
        operator.promote(system.ctx, 2, actor, reason)
    assert system.rows() == [(1, "live")]


def test_there_is_nothing_to_roll_back_to_at_first(system: System) -> None:
    with pytest.raises(NotFoundError, match="no previous model"):
        operator.rollback(system.ctx, "ann", "why not")


def test_promoting_what_is_live_changes_nothing(system: System) -> None:
    done = operator.promote(system.ctx, 1, "ann", "to be sure")
    assert done.status == "live"
    assert system.rows() == [(1, "live")]


def test_an_unknown_decision_is_named(system: System) -> None:
    with pytest.raises(NotFoundError, match="no-such-decision"):
        release(system.ctx, "no-such-decision")
