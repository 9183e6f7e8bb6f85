"""Whole runs of the DAGs on real Postgres and S3."""

import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pydantic import SecretStr
from sqlalchemy import func, select, update

from ml.catalog import cycles
from ml.catalog.engine import transaction
from ml.catalog.tables import cycles as cycles_table
from ml.catalog.tables import drops
from ml.context import Context
from ml.ingest import ingest
from ml.intake import entries
from ml.intake.claim import claim
from ml.training import due
from tests.dag_process import DagProcess, dag_process
from tests.pictures import digit_files, digits, upload


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagProcess]:
    with dag_process(tmp_path_factory.mktemp("airflow")) as running:
        yield running


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A URL, and the bodies it got."""
    got: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", got
    server.shutdown()
    server.server_close()


def fates(ctx: Context) -> dict[str, str]:
    with transaction(ctx.engine) as connection:
        return dict(connection.execute(select(drops.c.prefix, drops.c.status)).all())


def test_a_broken_drop_and_a_rejected_one_do_not_stop_a_good_one(
    make_context: Callable[..., Context],
    airflow: DagProcess,
    webhook: tuple[str, list[dict[str, str]]],
) -> None:
    url, alerts = webhook
    ctx = make_context(alert_webhook=SecretStr(url), inspect_bytes=40 * 8192)
    broken = claim(ctx, upload(ctx, "broken", digit_files(100, 140)))
    assert broken is not None
    ctx.store.put(entries.page_key(broken, 0), b"damaged")  # so that its inspection fails, and goes on failing
    ctx.labels.delete(["drops/broken/_READY"])
    upload(ctx, "good", digit_files(0, 60))
    upload(ctx, "rejected", {f"{i}/{i}.png": b"no image" for i in range(10)})

    (run,) = airflow.run(ctx.settings, ("ingest", {}))

    assert fates(ctx) == {"drops/good/": "accepted", "drops/rejected/": "rejected", "drops/broken/": "claimed"}
    assert run["assets"] == ["dataset"]
    assert run["state"] == "failed"  # somebody must look at the broken one
    by_drop = {name: state for name, state in run["tasks"].items() if broken in name}
    assert by_drop == {
        f"inspect[{broken} #0]": "failed",
        f"validate[{broken}]": "failed",
    }
    assert sorted(state for name, state in run["tasks"].items() if name.startswith("accept")) == [
        "skipped",
        "success",
        "upstream_failed",
    ]
    messages = [alert["message"] for alert in alerts]
    assert [m.partition(" in run ")[0] for m in messages if "failed" in m] == [
        f"ingest.inspect ({broken} #0) failed",
        f"ingest.validate ({broken}) failed",
    ]
    assert sum("was rejected" in m for m in messages) == 1


def test_runs_by_hand_and_a_drop_that_brings_nothing_new(context: Context, airflow: DagProcess) -> None:
    ingest(context, upload(context, "one", digit_files(0, 40)))
    upload(context, "again", digit_files(0, 40))
    upload(context, "two", digit_files(40, 80))
    asked = ("drops/two", "drops/none/", None)
    typo, one, none, rest = airflow.run(
        context.settings, ("ingest", {"prefx": "drops/two"}), *(("ingest", {"prefix": prefix}) for prefix in asked)
    )

    assert (typo["state"], typo["tasks"]["find"]) == ("failed", "failed")
    assert "unknown parameter `prefx`; this DAG has `prefix`" in typo["log"]
    assert (one["state"], one["assets"]) == ("success", ["dataset"])
    assert sum(name.startswith("accept") for name in one["tasks"]) == 1, "only the drop that was named"
    assert (none["state"], none["tasks"]["find"]) == ("failed", "failed")
    assert "`drops/none/` has no marker" in none["log"]
    assert (rest["state"], rest["assets"]) == ("success", []), "nothing new starts no training"
    assert fates(context) == {f"drops/{name}/": "accepted" for name in ("one", "two", "again")}
    (link,) = one["links"]
    page = link.removeprefix(f"{context.settings.service_url}/console/files/")
    assert b"Drop drops/two/" in context.store.get(page), "the button of `validate` leads to the drop's Data Docs"


def test_a_training_that_cannot_be_ends_its_cycle_with_the_reason(
    context_with_mlflow: Context, airflow: DagProcess
) -> None:
    context = context_with_mlflow
    drop = ingest(context, upload(context, "one", {f"7/{i}.png": d for i, (_, d) in enumerate(digits()[:30])}))
    run, again = airflow.run(context.settings, ("train", {"epochs": 1}), ("monitor", {}))
    assert (run["state"], run["tasks"]["fit"], run["tasks"]["release"]) == ("failed", "failed", "upstream_failed")
    cycle = cycles.get(context.engine, drop.drop_id)
    assert cycle.verdict == "stopped"
    assert "at least two" in str(cycle.reason)
    assert (again["tasks"]["request_overdue"], again["assets"]) == ("skipped", [])


def test_a_training_whose_model_needs_a_person_ends_and_starts_the_asking(
    make_context: Callable[..., Context], mlflow_url: str, airflow: DagProcess
) -> None:
    name = "needs-a-person"
    context = make_context(mlflow_url=mlflow_url, model_name=name, experiment=name, gate_review="always")
    drop = ingest(context, upload(context, "one", digit_files(0, 300)))
    (run,) = airflow.run(context.settings, ("train", {"epochs": 3}))
    assert run["state"] == "success"
    assert (run["tasks"]["undecided"], run["tasks"]["ask"], run["tasks"]["release"]) == (
        "success",
        "success",
        "skipped",
    )
    cycle = cycles.get(context.engine, drop.drop_id)
    assert (cycle.verdict, cycle.finished_at) == ("needs_person", None)
    files = f"{context.settings.service_url}/console/files/"
    (page,) = [link.removeprefix(files) for link in run["links"] if link.startswith(files)]
    assert b"person" in context.store.get(page), "the button of `gate` leads to the decision's report"
    assert due.choose(context, "asset_triggered__1") is None, "it is not trained again meanwhile"
    assert not due.overdue(context, minutes=0)


def test_monitoring_asks_for_a_training_that_is_overdue(context: Context, airflow: DagProcess) -> None:
    ingest(context, upload(context, "one", digit_files(0, 40)))
    with transaction(context.engine) as connection:
        connection.execute(update(cycles_table).values(started_at=func.now() - timedelta(hours=1)))
    monitor, maintain = airflow.run(context.settings, ("monitor", {}), ("maintain", {}))
    assert monitor["tasks"] == {
        "observe": "skipped",
        "judge_log": "success",
        "revert_drops": "skipped",
        "request_overdue": "success",
        "process_decisions": "success",
        "alert_refusals": "success",
        "check_feedback": "success",
        "collect_feedback": "success",
    }
    assert monitor["assets"] == ["retrain"]
    assert maintain["state"] == "success"
