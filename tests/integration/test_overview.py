"""The console's overview in a real service: what it tells of cycles, answers and replicas."""

from pathlib import Path

from sqlalchemy import func

from ml.catalog.engine import transaction
from ml.catalog.tables import cycles, decisions, drops
from ml.context import Context
from tests.bundles import deployed
from tests.pictures import digits
from tests.servers import wait_until
from tests.serving_process import logged_ids, service


def test_the_overview_shows_the_last_cycles(context: Context, tmp_path: Path) -> None:
    deployed(context, tmp_path)
    name = "<script>alert(1)</script>"
    with transaction(context.engine) as connection:
        connection.execute(
            drops.insert().values(
                id="d-1",
                prefix=f"drops/{name}/",
                listing_digest="1",
                status="accepted",
                accepted=9,
                quarantined=1,
                ready_at=func.now(),
                finished_at=func.now(),
            )
        )
        statistics = {"challenger_accuracy": 0.75, "champion_accuracy": 0.5, "holdout": 40, "p_value": 0.01}
        connection.execute(
            decisions.insert().values(
                id="x", model_version=2, champion_version=1, verdict="promote", reason="r", actor="gate",
                statistics=statistics,
            )
        )  # fmt: skip
        connection.execute(
            cycles.insert().values(
                id="d-1", origin="drop", drop_id="d-1", decision_id="x", model_version=2, verdict="promote",
                seconds={"train": 2.5}, live_at=func.now(),
            )
        )  # fmt: skip
    with service(context.settings, tmp_path) as running:
        running.wait_ready()
        for _, image in digits()[:5]:
            running.ask(image)
        wait_until(lambda: len(logged_ids(context)) == 5, what="the log")

        def told() -> bool:
            predicted = running.get("/v1/console/overview").json()["predictions"]
            return bool(predicted["last_24_hours"] == 5 and predicted["hourly"][-1] == 5)

        wait_until(told, what="the day's count")
        overview = running.get("/v1/console/overview").json()
        (cycle,) = overview["cycles"]
        assert (cycle["drop"], cycle["accepted"], cycle["quarantined"]) == (name, 9, 1)
        assert (cycle["challenger_accuracy"], cycle["champion_accuracy"], cycle["verdict"]) == (0.75, 0.5, "promote")
        assert cycle["seconds"] == {"train": 2.5}
        assert {r["model_version"] for r in overview["replicas"]} == {1}
        page = running.get("/")
        assert name not in page.text
        assert "script-src 'self';" in page.headers["content-security-policy"]
