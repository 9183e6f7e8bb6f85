"""An installation of an earlier commit, with data, goes on under this one and loses nothing.

The earlier code comes from git's history and runs by its commands and its service only. A copy of the project without
that history (a tarball, a shallow clone) cannot run this test: `git fetch --unshallow` brings it.
"""

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, inspect, select

from infra.demo import drops, pictures
from ml.catalog import tables
from ml.catalog.engine import transaction
from ml.catalog.migrate import migrate
from ml.context import Context, connect
from ml.pipeline import run_cycle
from ml.release import operator
from ml.settings import Settings
from tests.bench.parts.stored import upload
from tests.environment import environment
from tests.servers import Servers, free_port, process, wait_until
from tests.serving_process import Service, service

REPO = Path(__file__).parents[2]
EARLIER = "018ef32e5439e151039082f6da6e2c572f5051f1"
"""The last commit before the packages were laid out by concern; what is stored was promised to stay."""
STORED, SPOOLED = 20, 10
Answers = list[dict[str, object]]
BeforeStop = Callable[[Service, Answers], None]
_MIGRATE = (
    "import os; from ml.catalog.migrate import migrate; from ml.context import connect; "
    "from ml.settings import Settings; migrate(connect(Settings.load(os.environ)).engine)"
)
_EVERGREEN = "from infra.cli import main; main()"


class Earlier:
    """The earlier code, run as processes of its own."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder, self.settings = folder, settings

    def python(self, *arguments: str) -> str:
        environ = os.environ | self._environment(self.settings)
        command = [sys.executable, "-c", *arguments]
        done = subprocess.run(command, cwd="/", env=environ, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def predict(self, images: list[bytes], settings: Settings, before_stop: BeforeStop | None = None) -> Answers:
        """Answers of its service with one worker, which is then stopped."""
        port = free_port()
        command = [sys.executable, "-m", "serving", "--workers", "1", "--port", str(port)]
        log = self.folder / f"service-{port}.log"
        running = Service(f"http://127.0.0.1:{port}", log)
        with process(command, self._environment(settings), log):
            wait_until(lambda: running.get("/readyz").status_code == 200, what=f"the earlier service: {log}")
            answers = [running.ask(image).json() for image in images]
            if before_stop:
                before_stop(running, answers)
        return answers

    def _environment(self, settings: Settings) -> dict[str, str]:
        return environment(settings) | {"PYTHONPATH": str(self.folder)}


@pytest.fixture
def earlier(tmp_path: Path, servers: Servers, mlflow_url: str) -> Earlier:
    archive = subprocess.run(["git", "archive", EARLIER], cwd=REPO, capture_output=True)
    if archive.returncode:
        pytest.skip(f"the earlier commit is not in this copy's history: {archive.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(tmp_path / "earlier", filter="data")
    settings = servers.settings(
        tmp_path / "home",
        mlflow_url=mlflow_url,
        model_name="upgraded",
        experiment="upgraded",
        train_threads=1,
        train_budget=12_000,
        refresh_budget=6_000,
    )
    return Earlier(tmp_path / "earlier", settings)


def test_an_earlier_installation_goes_on_and_loses_nothing(earlier: Earlier, tmp_path: Path) -> None:
    story = drops.make_story(pictures.load(None, 0)[:900], 0)
    questions = [question.data for question in story.questions[: STORED + SPOOLED]]
    ctx = connect(earlier.settings)
    earlier.python(_MIGRATE)
    first = upload(ctx, "first", {f"{p.label}/{p.name}": p.data for p in story.first[:330]})
    earlier.python(_EVERGREEN, "cycle", first)
    answers = _predictions_of(earlier, ctx, questions)
    before = _counts(ctx)
    assert before["deployments"] == 1

    migrate(ctx.engine)
    with service(earlier.settings, tmp_path, workers=1) as running:
        running.wait_ready(1)
        again = [running.ask(question).json() for question in questions]
        assert [(a["label"], a["model_version"]) for a in again] == [(a["label"], a["model_version"]) for a in answers]
        for answer in answers:
            wait_until(lambda a=answer: _is_stored(running, a["id"]), what=f"prediction {answer['id']}")  # type: ignore[misc]
        assert running.get(f"/v1/predictions/{answers[0]['id']}").json()["feedback"][0]["label"] == "anything"

        ctx = replace(ctx, settings=ctx.settings.model_copy(update={"service_url": running.url}))
        second = upload(ctx, "second", {f"{p.label}/{p.name}": p.data for p in story.second[:200]})
        cycle = run_cycle(ctx, second, on_stage=lambda *_: None)
        assert cycle.verdict in ("promote", "reject", "borderline"), cycle
        promoted = operator.promote(ctx, 2, "ann", "the newer one")
        assert (promoted.status, promoted.model_version) == ("live", 2), promoted
        returned = operator.rollback(ctx, "ann", "the earlier one again")
        assert (returned.status, returned.model_version) == ("live", 1), returned
    after = _counts(ctx)
    assert after["predictions"] == before["predictions"] + SPOOLED + len(questions)
    assert after["samples"] > before["samples"]
    assert all(after[name] >= count for name, count in before.items()), (before, after)


def _predictions_of(earlier: Earlier, ctx: Context, questions: list[bytes]) -> Answers:
    """The earlier service's answers, the first with feedback; the last `SPOOLED` of them are still in its spool."""

    def wait_stored(running: Service, answers: Answers) -> None:
        opinion = {"prediction_id": answers[0]["id"], "label": "anything", "source": "ann"}
        assert httpx.post(f"{running.url}/v1/feedback", json=opinion, timeout=30).status_code < 300
        wait_until(lambda: _counts(ctx)["predictions"] == STORED, what="the stored predictions")

    answers = earlier.predict(questions[:STORED], earlier.settings, wait_stored)
    without_bucket = earlier.settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:1"})
    answers += earlier.predict(questions[STORED:], without_bucket)
    assert _counts(ctx)["predictions"] == STORED
    return answers


def _counts(ctx: Context) -> dict[str, int]:
    """Rows of each table of the catalog that there is yet."""
    with transaction(ctx.engine) as connection:
        existing = set(inspect(connection).get_table_names())
        return {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in tables.metadata.sorted_tables
            if table.name in existing
        }


def _is_stored(running: Service, prediction: object) -> bool:
    response = running.get(f"/v1/predictions/{prediction}")
    return response.status_code == 200 and bool(response.json()["stored"])
