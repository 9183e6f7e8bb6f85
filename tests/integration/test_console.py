"""What the console hands out of the bucket, and what it shows of quarantine, in a real service."""

import io
import json
import re
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import orjson
import pytest
from PIL import Image
from sqlalchemy import select

from ml.catalog import drops as drops_catalog
from ml.catalog.engine import transaction
from ml.catalog.predictions import PredictionRow, store
from ml.catalog.tables import drops, quarantine
from ml.context import Context, connect
from ml.datasets import revert
from ml.ingest import ingest
from ml.intake import held, quarantine_store
from ml.intake.claim import claim
from ml.intake.findings import Finding
from ml.intake.inspect import inspect_chunk
from ml.intake.validate import validate
from serving.prediction_log.log import timestamp_of, uuid7
from tests.pictures import digit_files, digits, png, upload
from tests.servers import Servers
from tests.serving_process import Service, service

BLANK = png(np.zeros((8, 8), np.uint8))
EVIL = '"><script>alert(1)</script>.png'


def ingest_strange_drop(ctx: Context) -> None:
    """A drop with a blank picture, one that is none, and one of a hostile name without a file."""
    table = "file,label\n" + "".join(f"{key},{key[0]}\n" for key in digit_files(0, 30))
    files = {**digit_files(0, 30), "blank.png": BLANK, "fake.png": b"<script>alert(1)</script>", "lost.png": BLANK}
    evil = EVIL.replace('"', '""')
    files["labels.csv"] = f'{table}blank.png,0\nfake.png,1\nlost.png,\n"{evil}",2\n'.encode()
    ingest(ctx, upload(ctx, "one", files))


@pytest.fixture
def running(context: Context, tmp_path: Path) -> Iterator[Service]:
    """A service, and the strange drop."""
    ingest_strange_drop(context)
    with service(context.settings, tmp_path, workers=1) as started:
        yield started


@pytest.fixture(scope="module")
def unchanged(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Context, Service]]:
    """As `context` and `running`, for tests that only read."""
    folder = tmp_path_factory.mktemp("unchanged")
    ctx = connect(servers.migrated(folder))
    ingest_strange_drop(ctx)
    with service(ctx.settings, folder, workers=1) as started:
        yield ctx, started


def drop_row(ctx: Context) -> dict[str, object]:
    with transaction(ctx.engine) as connection:
        return dict(connection.execute(select(drops)).mappings().one())


def number_of(ctx: Context, key: str) -> int:
    with transaction(ctx.engine) as connection:
        return int(connection.execute(select(quarantine.c.id).where(quarantine.c.key == key)).scalar_one())


def test_reports_are_handed_out_and_run_nothing(context: Context, running: Service) -> None:
    row = drop_row(context)
    page = running.get(f"/console/files/{row['report_key']}")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "sandbox" in policy
    assert "script-src" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "&lt;script&gt;alert(1)" in page.text
    assert "<script" not in page.text
    report = running.get(f"/console/files/drops/{row['id']}/report.json")
    assert report.headers["content-type"] == "application/json"
    assert set(report.json()["quarantined"]) == {"blank.png", "fake.png", "lost.png", EVIL}
    context.store.put("decisions/abc/report.html", b"x" * 2_500_000)
    large = running.get("/console/files/decisions/abc/report.html")
    assert large.content == b"x" * 2_500_000


@pytest.mark.parametrize(
    "path",
    [
        "drops/{id}/listing.json",
        "drops/{id}/validated.parquet",
        "versions/x.json",
        "data-docs/../drops/{id}/listing.json",
        "data-docs/drops/..%2f..%2fdrops%2f{id}%2flisting.json",
        "data-docs/drops/%2e%2e/x.html",
        "decisions/../drops/{id}/report.json",
        "drops/{id}/report.json%00",
        "//drops/{id}/report.json",
        "data-docs/drops/nothing.html",
        "",
    ],
)
def test_nothing_else_is_handed_out(unchanged: tuple[Context, Service], path: str) -> None:
    context, running = unchanged
    path = path.format(id=drop_row(context)["id"])
    address = urlsplit(running.url)
    # As it stands: cleverer clients take `..` out of the address.
    connection = HTTPConnection(str(address.hostname), address.port, timeout=30)
    with closing(connection):
        connection.request("GET", f"/console/files/{path}")
        answer = connection.getresponse()
        body = answer.read()
    assert answer.status == 404, body
    assert json.loads(body)["code"] == "not_found"


def test_quarantine_is_shown_with_reasons_and_pictures_made_safe(unchanged: tuple[Context, Service]) -> None:
    context, running = unchanged
    page = running.get("/console/quarantine")
    assert page.status_code == 200
    assert "4 images held" in page.text
    assert "the picture is blank" in page.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;.png" in page.text
    assert "<script" not in page.text
    assert f"/console/files/{drop_row(context)['report_key']}" in page.text
    picture = running.get(f"/console/quarantine/{number_of(context, 'blank.png')}/picture")
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/jpeg")
    assert picture.content != BLANK
    with Image.open(io.BytesIO(picture.content)) as image:
        assert (image.format, image.size) == ("JPEG", (160, 160))
    for key in ("fake.png", EVIL):
        none = running.get(f"/console/quarantine/{number_of(context, key)}/picture")
        assert (none.status_code, none.headers["location"]) == (303, "/console/static/no-picture.svg")
    assert running.get("/console/static/no-picture.svg").headers["content-type"] == "image/svg+xml"
    assert running.get("/console/quarantine/999999999/picture").status_code == 303
    assert running.get("/console/quarantine/99999999999999999999/picture").status_code == 422


def test_quarantine_has_pages_and_a_drop_shows_what_became_of_its_images(context: Context, running: Service) -> None:
    blank = number_of(context, "blank.png")
    quarantine_store.discard(context, [blank], actor="ann", reason="nothing <b>on</b> it")
    assert "3 images held" in running.get("/console/quarantine").text
    row = drop_row(context)
    of_drop = running.get(f"/console/quarantine?drop={row['id']}").text
    assert "nothing &lt;b&gt;on&lt;/b&gt; it" in of_drop
    assert "discarded" in of_drop
    assert "Nothing is held" in running.get("/console/quarantine?drop=d-none").text
    values = [{"drop_id": row["id"], "key": f"more/{i}.png", "reasons": ["many"]} for i in range(60)]
    with transaction(context.engine) as connection:
        connection.execute(quarantine.insert(), values)
    seen: list[str] = []
    path: str | None = "/console/quarantine"
    while path:
        text = running.get(path).text
        seen += re.findall(r'<b title="([^"]*)"', text)
        older = re.search(r'href="(\?[^"]*before=\d+)">Older', text)
        path = f"/console/quarantine{older.group(1)}" if older else None
    assert len(seen) == len(set(seen)) == 63


def check_the_accepted_drop_is_reverted_and_restored_by_a_button(context: Context, running: Service) -> None:
    drop_id = str(drop_row(context)["id"])

    def post(decision: str, reason: str = "<b>looked</b>", drop: str = drop_id) -> httpx.Response:
        address = f"{running.url}/console/drops/{drop}/{decision}"
        return httpx.post(address, json={"reason": reason}, timeout=30)

    assert ">in the data</span>" in running.get("/console/drops").text
    assert post("revert", " ").status_code == 422
    missing = post("revert", drop="d-none")
    assert missing.status_code == 404, missing.text
    assert post("destroy").status_code == 422
    assert post("approve").status_code == 409
    asked = {"drop_id": drop_id, "status": "accepted", "reverted": False, "request": "revert"}
    assert [post("revert").json(), post("revert", "again").json()] == [asked, asked]
    page = running.get("/console/drops").text
    assert "to be reverted" in page
    assert "&lt;b&gt;looked&lt;/b&gt;" in page
    assert post("restore").json() == asked | {"request": None}, "taken back"
    post("revert", "wrong labels")
    ((request, result),) = revert.carry_out_requests(context)
    assert (request.change, result.samples) == ("revert", 30)
    row = drops_catalog.get(context.engine, drop_id)
    assert (row.revert_reason, row.revert_request) == ("wrong labels", None)
    assert "in the console" in str(row.reverted_by)
    assert "reverted</span>" in running.get("/console/drops").text
    assert post("restore").json() == asked | {"reverted": True, "request": "restore"}
    assert "That was all." in running.get(f"/console/drops?before={drop_id}").text


def test_drops_are_shown_with_their_images_and_decided_by_buttons(context: Context, running: Service) -> None:
    check_the_accepted_drop_is_reverted_and_restored_by_a_button(context, running)
    key, data = digit_files(30, 31).popitem()
    drop_id = claim(context, upload(context, "'><script>alert(1)<", {key: data}))
    assert drop_id
    inspect_chunk(context, drop_id, 0)
    validate(context, drop_id)
    held.hold(context, drop_id, [Finding("label_noise", "<b>wrong</b> labels", holds=True, images=(key,))])
    page = running.get("/console/drops")
    assert (page.status_code, "1 wait" in page.text) == (200, True)
    assert "&lt;b&gt;wrong&lt;/b&gt; labels" in page.text
    assert "<script>alert" not in page.text
    assert running.get("/v1/console/overview").json()["held_drops"] == 1
    (picture,) = re.findall(r'src="(/console/drops/[^"]*)"', page.text)
    shown = running.get(picture)
    assert (shown.status_code, shown.headers["content-type"], shown.content != data) == (200, "image/jpeg", True)
    assert running.get(picture.replace("/0/picture", "/7/picture")).status_code == 303
    assert running.get("/console/drops/d-none/0/0/picture").status_code == 303

    def post(path: str, reason: str, **headers: str) -> httpx.Response:
        return httpx.post(f"{running.url}/console/drops/{path}", json={"reason": reason}, headers=headers, timeout=30)

    assert post(f"{drop_id}/approve", "x", origin="https://elsewhere.example").status_code == 401
    assert post(f"{drop_id}/approve", "").status_code == 422
    assert post("d-none/approve", "x").status_code == 404
    assert post(f"{drop_id}/approve", "looked").json()["status"] == "claimed"
    assert post(f"{drop_id}/reject", "late").status_code == 409
    approved = drops_catalog.get(context.engine, drop_id)
    assert (approved.approval_reason, "in the console" in str(approved.approved_by)) == ("looked", True)
    assert "No drop waits" in running.get("/console/drops").text


def test_the_overview_links_what_was_found(unchanged: tuple[Context, Service]) -> None:
    context, running = unchanged
    (cycle,) = running.get("/v1/console/overview").json()["cycles"]
    row = drop_row(context)
    assert (cycle["data_docs"], cycle["drop_id"]) == (row["report_key"], row["id"])


def test_questions_about_predictions_are_shown_with_pictures_and_answered(context: Context, running: Service) -> None:
    image, prediction = digits()[0][1], uuid7()
    context.store.put("predictions/2026/01/02/1.tar", image)
    row = {
        "id": prediction, "at": timestamp_of(prediction), "model_version": 1, "label": "0", "top": [],
        "probability": 0.9, "milliseconds": 1.0, "image_sha256": "1" * 64, "width": 8, "height": 8, "brightness": 0.5,
    }  # fmt: skip
    with transaction(context.engine) as connection:
        store(connection, [PredictionRow(orjson.dumps(row), (0, len(image)))], "predictions/2026/01/02/1.tar", "test")

    def post(path: str, **body: str) -> httpx.Response:
        return httpx.post(running.url + path, json=body, timeout=30)

    said = post("/v1/feedback", prediction_id=str(prediction), label=EVIL.replace("/", ""), source="ann").json()
    assert (said["level"], said["standing"]) == ("propose", "new_class")
    assert post("/v1/feedback", prediction_id=str(prediction), label="1", source="bob").json()["standing"] == "queued"
    (task,) = running.get("/v1/label-tasks").json()["tasks"]
    assert (task["label"], task["suggested"], task["details"]["persons"]) == ("0", "1", 1)
    page = running.get("/console/labels").text
    assert "1 open question<" in page
    assert "It is 1" in page
    assert "<script>" not in page
    picture = running.get(f"/console/labels/{task['id']}/picture")
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/jpeg")
    address = f"/v1/label-tasks/{task['id']}"
    assert post(f"{address}/answer", label="zebra").status_code == 422
    assert post(f"{address}/answer", label="1").json()["status"] == "answered"
    assert [post(f"{address}/{step}", label="1").status_code for step in ("answer", "dismiss")] == [409, 409]
    assert post("/v1/label-tasks/999/answer", label="1").status_code == 404
    (first, *_) = running.get(f"/v1/predictions/{prediction}").json()["feedback"]
    assert (first["source"], first["level"]) == ("ann", "propose")
    assert "Nothing is asked." in running.get("/console/labels").text
