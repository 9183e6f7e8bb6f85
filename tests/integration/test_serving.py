"""The service as processes against real Postgres and S3: readiness, log, feedback, outages, kill -9."""

import hashlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image
from pydantic import SecretStr
from sqlalchemy import func, select

from infra.local import postgres
from ml.catalog.engine import transaction
from ml.catalog.feedback_later import apply_recent_waiting
from ml.catalog.migrate import migrate
from ml.catalog.tables import feedback, feedback_waiting, prediction_hours, predictions
from ml.context import Context, connect
from ml.erasure import erase, selection
from serving.prediction_log.log import uuid7
from tests.bundles import DIGITS, deployed
from tests.doubles.registry import MemoryRegistry, install
from tests.pictures import digits
from tests.servers import PASSWORD, Servers, free_port, process, wait_until
from tests.serving_process import (
    Hammer,
    Service,
    logged_ids,
    replica_rows,
    service,
    wait_logged,
    wait_replicas,
)

IMAGES = [data for _, data in digits()[:40]]


@pytest.fixture
def running(context: Context, tmp_path: Path) -> Iterator[Service]:
    """Two workers with a model."""
    deployed(context, tmp_path)
    metrics: dict[str, Any] = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics")}
    with service(context.settings, tmp_path, **metrics) as started:
        started.wait_ready()
        yield started


def test_from_nothing_to_ready_and_away(context: Context, tmp_path: Path) -> None:
    with service(context.settings, tmp_path) as started:
        wait_replicas(context, lambda row: row["deployment_id"] is None)
        assert started.get("/readyz").status_code == 503
        refused = started.ask(IMAGES[0])
        assert (refused.status_code, refused.json()["code"]) == (503, "no_model")
        assert started.get("/v1/console/overview").json()["model"] is None
        deployment = deployed(context, tmp_path)
        wait_replicas(context, lambda row: row["deployment_id"] == deployment and row["model_version"] == 1)
        started.wait_ready()
        assert started.ask(IMAGES[0]).json()["model_version"] == 1
        assert {row["id"] for row in replica_rows(context)} >= {started.get("/v1/model").json()["replica"]}
    assert replica_rows(context) == []
    assert list((context.settings.home / "spool").iterdir()) == []


def test_every_answer_is_logged_once_with_its_image(context: Context, running: Service) -> None:
    with Hammer(running.url, IMAGES).swinging() as hammer:
        hammer.wait_for(400)
    assert hammer.failures == []
    keyed = running.ask(IMAGES[0], **{"x-client-key": "mine"}).json()
    running.ask(IMAGES[0], **{"x-evergreen-probe": "1"})
    context.labels.put("apart/1.png", IMAGES[1])
    urls = [f"s3://{context.settings.labels_bucket}/apart/{n}.png" for n in (1, 2)]
    form = [("file", (str(n), data)) for n, data in enumerate(IMAGES[:9])]
    many = httpx.post(f"{running.url}/v1/predict/batch", files=form, timeout=30).json()["results"]
    fetched, missing = httpx.post(f"{running.url}/v1/predict/batch", json={"urls": urls}, timeout=30).json()["results"]
    assert missing["problem"]["code"] == "not_found"
    assert fetched["answer"]["top"] == many[1]["answer"]["top"]
    hammer.answers.extend(item["answer"] | {"image": n} for n, item in enumerate(many))
    hammer.answers.append(fetched["answer"] | {"image": 1})
    wait_until(lambda: keyed["id"] in logged_ids(context), what="the keyed answer in the log")
    wait_logged(context, hammer)
    assert len(logged_ids(context)) == len(hammer.answers) + 1
    with transaction(context.engine) as connection:
        rows = {str(row.id): row for row in connection.execute(select(predictions))}
    assert rows[keyed["id"]].client_key == "mine"
    for answer in hammer.answers[:50]:
        row, image = rows[answer["id"]], IMAGES[answer["image"]]
        assert (row.label, row.model_version, row.top) == (answer["label"], 1, answer["top"])
        assert (row.width, row.height) == (8, 8)
        assert row.image_sha256 == hashlib.sha256(image).hexdigest()
        assert context.store.get(row.image_object, row.image_offset, row.image_size) == image
        assert (row.variant, row.rejected) == ("fp32", None)
        assert 0 < row.decode_milliseconds + row.inference_milliseconds < row.milliseconds
        assert re.fullmatch(r"predictions/\d{4}/\d\d/\d\d/[\w.-]+-\d+\.tar", row.image_object)
    assert {row.replica for row in rows.values()} == {r["id"].replace(":", "-") for r in replica_rows(context)}
    _erased_while_it_runs(context, running, IMAGES[3])


def _erased_while_it_runs(context: Context, running: Service, image: bytes) -> None:
    """Every worker confirms, no stored answer has the image any more, and later answers on it have none."""
    install(context, MemoryRegistry())
    digest = hashlib.sha256(image).hexdigest()
    erase.erase(context, selection.of_hashes([digest]), actor="ann", reason="asked")
    wait_until(lambda: erase.finish(context) == 0, what="the confirmation of both workers")
    again = running.ask(image).json()["id"]
    wait_until(lambda: again in logged_ids(context), what="the answer in the log")
    with transaction(context.engine) as connection:
        of_image = select(predictions.c.image_object).where(predictions.c.image_sha256 == digest)
        assert set(connection.execute(of_image).scalars()) == {None}
    assert not any(image in context.store.get(info.key) for info in context.store.list("predictions/"))


def test_connections_are_dealt_out_and_the_port_is_nobody_elses(context: Context, running: Service) -> None:
    port = int(running.url.rpartition(":")[2])
    workers = [psutil.Process(row["pid"]) for row in replica_rows(context)]
    with ExitStack() as stack:
        for _ in range(64):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))

        def accepted() -> list[int]:
            every = [worker.net_connections("tcp") for worker in workers]
            return [sum(c.laddr.port == port and c.status == psutil.CONN_ESTABLISHED for c in one) for one in every]

        wait_until(lambda: sum(accepted()) >= 64, what="all connections")
        assert min(accepted()) >= 12, "once in ten million it is chance"
    command = [sys.executable, "-m", "serving", "--port", str(port)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert second.returncode == 1
    assert f"127.0.0.1:{port} cannot be listened on" in second.stderr


def test_metrics_speak_for_all_workers(context: Context, running: Service) -> None:
    with Hammer(running.url, IMAGES).swinging() as hammer:
        hammer.wait_for(100)
    counted = f'evergreen_requests_total{{method="POST",route="/v1/predict",status="200"}} {len(hammer.answers)}.0'
    for _ in range(10):
        text = running.get("/metrics").text
        assert counted in text
        assert len(re.findall(r'^evergreen_model_version\{pid="\d+"\} 1\.0$', text, re.MULTILINE)) == 2
        assert 'evergreen_reloads_total{result="swapped"} 2.0' in text


def test_feedback_is_stored_once_an_end_user_and_may_be_corrected(context: Context, running: Service) -> None:
    answer = running.ask(IMAGES[0]).json()
    wait_until(lambda: answer["id"] in logged_ids(context), what="the answer in the log")

    def give(**change: str) -> int:
        body = {"prediction_id": answer["id"], "label": "3"} | change
        return httpx.post(f"{running.url}/v1/feedback", json=body).status_code

    assert give() == 201
    assert give() == 200
    assert give(source="nurse", comment="sure") == 201
    with transaction(context.engine) as connection:
        connection.execute(feedback.update().values(drop_prefix="drops/feedback-1/"))
    assert give(source="nurse", comment="very sure") == 200
    assert give(label="5") == 200
    assert give(prediction_id=str(uuid7())) == 202  # perhaps still in a spool
    assert give(label="Any/thing") == 422
    with transaction(context.engine) as connection:
        rows = connection.execute(select(feedback).where(feedback.c.prediction_id == answer["id"])).all()
    stored = {row.source: (row.label, row.comment, row.drop_prefix) for row in rows}
    assert stored == {"user": ("5", None, None), "nurse": ("3", "very sure", "drops/feedback-1/")}
    assert {(row.key_id, row.level, row.status) for row in rows} == {("local", "propose", "stored")}


def test_feedback_by_the_clients_key_may_come_before_its_prediction_is_in_the_log(
    context: Context, running: Service
) -> None:
    def give(key: str, label: str) -> int:
        body = {"client_key": key, "label": label}
        return httpx.post(f"{running.url}/v1/feedback", json=body).status_code

    def told() -> dict[str, str]:
        with transaction(context.engine) as connection:
            return {str(r.prediction_id): r.label for r in connection.execute(select(feedback)) if r.image_sha256}

    assert give("late", "3") == 202
    assert give("late", "4") == 202
    late = running.ask(IMAGES[0], **{"x-client-key": "late"}).json()["id"]
    wait_until(lambda: told() == {late: "4"}, what="the feedback that waited")
    assert give("late", "5") == 200
    assert told() == {late: "5"}
    again = running.ask(IMAGES[1], **{"x-client-key": "late"}).json()["id"]
    wait_until(lambda: again in logged_ids(context), what="the second answer of this key")
    assert give("late", "6") == 201
    assert told() == {late: "5", again: "6"}
    with transaction(context.engine) as connection:  # both came in the same moment, neither saw the other
        connection.execute(feedback_waiting.insert().values(client_key="late", source="nurse", label="7"))
        connection.execute(feedback_waiting.insert().values(client_key="never", source="nurse", label="7"))
    with transaction(context.engine) as connection:
        assert apply_recent_waiting(connection) == 1
        assert connection.execute(select(feedback_waiting.c.client_key)).scalars().all() == ["never"]


def test_a_prediction_can_be_looked_up_and_explained(context: Context, running: Service, tmp_path: Path) -> None:
    answer = running.ask(IMAGES[3], **{"x-client-key": "mine"}).json()
    path = f"/v1/predictions/{answer['id']}"
    waiting = running.get(path).json()
    wait_until(lambda: running.get(path).json()["stored"], what="the answer in the log")
    httpx.post(f"{running.url}/v1/feedback", json={"client_key": "mine", "label": "3", "comment": "clearly"})
    stored = running.get(path).json()
    (opinion,) = stored.pop("feedback")
    assert (opinion["label"], opinion["source"], opinion["comment"]) == ("3", "user", "clearly")
    if not waiting["stored"]:  # nearly always
        same = {name: value for name, value in waiting.items() if name not in ("stored", "feedback")}
        assert same == {name: value for name, value in stored.items() if name != "stored"}
    assert (stored["label"], stored["top"], stored["client_key"]) == (answer["label"], answer["top"], "mine")
    assert running.get(f"/v1/predictions/{uuid7()}").status_code == 404
    assert running.get("/v1/predictions/00000000-0000-4000-8000-000000000000").status_code == 404
    assert running.get("/v1/predictions/none").status_code == 422
    right = int(answer["label"] == "3")
    assert running.get("/v1/accuracy").json() == [
        {"model_version": 1, "judged": 1, "right": right, "accuracy": float(right)}
    ]

    picture = running.get(f"{path}/explanation")
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/png"), picture.text
    with Image.open(io.BytesIO(picture.content)) as opened:
        assert opened.size == (448, 448)
    other = next(label for label in DIGITS if label != answer["label"])
    assert running.get(f"{path}/explanation?label={other}").content != picture.content
    assert running.get(f"{path}/explanation?label=nothing").status_code == 404
    with transaction(context.engine) as connection:
        key = connection.execute(select(predictions.c.image_object)).scalar_one()
    context.store.delete([key])  # as `maintain` does when its time is over
    gone = running.get(f"{path}/explanation")
    assert (gone.status_code, gone.json()["code"]) == (410, "image_gone")
    newer = deployed(context, tmp_path, 2, seed=2)
    wait_replicas(context, lambda row: row["deployment_id"] == newer)
    assert running.get(f"{path}/explanation").status_code == 409
    assert running.get(path).status_code == 200


def test_kill_9_under_load_loses_no_answer(context: Context, running: Service) -> None:
    killed = list[float]()
    with Hammer(running.url, IMAGES).swinging(8) as hammer:
        for _ in range(3):
            hammer.wait_for(150)
            running.wait_ready()  # the one that came in the place of the last victim too
            victim = running.get("/v1/model").json()["replica"]
            killed.append(time.time())
            os.kill(int(victim.split(":")[1]), signal.SIGKILL)
            hammer.wait_for(150)
    # A connection that a killed worker held breaks; nothing else may fail.
    assert not [f for f in hammer.failures if f[0].isdigit() and not f.startswith("503")]
    wait_logged(context, hammer, killed)
    spool = context.settings.home / "spool"
    wait_until(lambda: len([p for p in spool.iterdir() if not p.name.startswith(".")]) == 2, what="adoption")

    def told_by() -> int:
        return len(re.findall(r"^evergreen_model_version\{", running.get("/metrics").text, re.MULTILINE))

    wait_until(lambda: told_by() == 2, what="the gauges of the two that live, and of no dead one")


def test_who_comes_in_the_place_of_a_dead_worker_gets_its_share_of_the_load(context: Context, running: Service) -> None:
    """The connections that broke were all made anew with the other worker, and stay open."""

    def answering() -> set[str]:
        with transaction(context.engine) as connection:
            return set(connection.execute(select(predictions.c.replica).distinct()).scalars())

    with Hammer(running.url, IMAGES).swinging(8) as hammer:
        hammer.wait_for(150)
        victim = running.get("/v1/model").json()["replica"]
        os.kill(int(victim.split(":")[1]), signal.SIGKILL)
        wait_until(lambda: len(answering()) == 3, what="answers of the new one")
    assert not [f for f in hammer.failures if f[0].isdigit()], "it took no connection before it had a model"


def test_workers_restarted_one_by_one_share_connections_among_themselves(context: Context, running: Service) -> None:
    """SIGHUP starts each new worker before the old one goes: nobody's seat may stay behind."""
    before = {row["pid"] for row in replica_rows(context)}
    (supervisor,) = {psutil.Process(pid).ppid() for pid in before}
    os.kill(supervisor, signal.SIGHUP)

    def all_new() -> bool:
        children = {child.pid for child in psutil.Process(supervisor).children()}
        return len(children) == 2 and not children & before

    wait_until(all_new, what="two new workers")
    running.wait_ready()
    with ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(base_url=running.url)) for _ in range(8)]

        def closings() -> int:
            asked = [c.post("/v1/predict", content=IMAGES[0], headers={"content-type": "image/png"}) for c in clients]
            assert {answer.status_code for answer in asked} == {200}
            return sum(answer.headers.get("connection") == "close" for answer in asked)

        def settled() -> bool:
            end, count = time.monotonic() + 1, 0
            while time.monotonic() < end:
                count += closings()
            return count == 0

        wait_until(settled, what="a second in which nobody is sent away")


def test_workers_end_with_their_supervisor(context: Context, running: Service) -> None:
    workers = [psutil.Process(row["pid"]) for row in replica_rows(context)]
    (supervisor,) = {worker.ppid() for worker in workers}
    os.kill(supervisor, signal.SIGKILL)
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []
    with closing(socket.socket()) as probe:
        assert probe.connect_ex(("127.0.0.1", int(running.url.rpartition(":")[2]))) != 0


@contextmanager
def private_postgres(folder: Path, port: int) -> Iterator[int]:
    with process(postgres.command(folder, port), {}, folder.parent / "pg.log", signal.SIGINT) as pid:
        yield pid


def test_postgres_away_stuck_and_back_loses_nothing(
    servers: Servers, make_context: Callable[..., Context], tmp_path: Path
) -> None:
    folder, port = tmp_path / "postgres", free_port()
    postgres.initialise(folder, PASSWORD)
    with ExitStack() as stack:
        with private_postgres(folder, port) as pid:
            context = _own_catalog(servers, tmp_path, port)
            deployed(context, tmp_path)
            started = stack.enter_context(service(context.settings, tmp_path))
            started.wait_ready()
            hammer = stack.enter_context(Hammer(started.url, IMAGES).swinging(2))
            hammer.wait_for(50)
            _tell_all(pid, signal.SIGSTOP)  # stuck: connections stay, answers do not come
            hammer.wait_for(300)
            assert _give_feedback(started, hammer.answers[0]["id"], "stuck") == 202
            _tell_all(pid, signal.SIGCONT)
            wait_logged(context, Hammer("", [], answers=hammer.answers[:300]))
        hammer.wait_for(300)  # gone
        overview = started.get("/v1/console/overview").json()
        assert (overview["catalog"], overview["model"]["version"]) == ("away", 1)
        prediction_id = hammer.answers[-1]["id"]
        assert [_give_feedback(started, prediction_id, label) for label in ("gone", "no, gone")] == [202, 202]
        with private_postgres(folder, port):
            newer = deployed_when_back(context, tmp_path)
            wait_replicas(context, lambda row: row["deployment_id"] == newer)
            stack.close()
            assert hammer.failures == []
            with service(context.settings, tmp_path):  # what the last half second left on disk is stored by the next
                wait_logged(context, hammer)
            assert len(logged_ids(context)) == len(hammer.answers)
            with transaction(context.engine) as connection:
                kept = connection.execute(select(feedback.c.label).where(feedback.c.status == "stored")).scalars().all()
                counted = connection.execute(select(func.sum(prediction_hours.c.answers))).scalar()
            assert sorted(kept) == ["no, gone", "stuck"]
            assert counted == len(hammer.answers)
    assert started.log.read_text().count("the catalog does not answer") <= 4  # two workers, said once an outage


def _tell_all(pid: int, number: signal.Signals) -> None:
    """The server and the process of each connection, which is a group of its own."""
    server = psutil.Process(pid)
    for one in (server, *server.children(recursive=True)):
        one.send_signal(number)


def _own_catalog(servers: Servers, folder: Path, port: int) -> Context:
    def prepared() -> bool:
        postgres.ensure_database("127.0.0.1", port, PASSWORD, "evergreen", PASSWORD)
        return True

    wait_until(prepared, what="a private Postgres")
    url = SecretStr(f"postgresql+psycopg2://evergreen:{PASSWORD}@127.0.0.1:{port}/evergreen")
    context = connect(servers.settings(folder / "home", database_url=url))
    migrate(context.engine)
    return context


def deployed_when_back(context: Context, folder: Path) -> int:
    wait_until(lambda: replica_rows(context) is not None, what="Postgres after its restart")
    return deployed(context, folder, 2, seed=2)


def _give_feedback(started: Service, prediction_id: str, label: str) -> int:
    body = {"prediction_id": prediction_id, "label": label}
    return httpx.post(f"{started.url}/v1/feedback", json=body, timeout=30).status_code


def test_a_start_without_database_and_bucket_serves_what_served_last(context: Context, tmp_path: Path) -> None:
    deployed(context, tmp_path)
    with service(context.settings, tmp_path) as started:
        started.wait_ready()
        before = started.ask(IMAGES[0]).json()
        wait_until(lambda: before["id"] in logged_ids(context), what="the answer in the log")
    nowhere = SecretStr("postgresql+psycopg2://evergreen@127.0.0.1:1/evergreen")
    cut_off = context.settings.model_copy(update={"database_url": nowhere, "s3_endpoint": "http://127.0.0.1:1"})
    with service(cut_off, tmp_path) as started:
        started.wait_ready()
        alone = started.ask(IMAGES[0]).json()
        assert (alone["top"], alone["model_version"]) == (before["top"], before["model_version"])
    assert alone["id"] not in logged_ids(context)
    with service(context.settings, tmp_path):
        wait_until(lambda: alone["id"] in logged_ids(context), what="the answer given alone in the log")


def test_the_bucket_away_delays_the_log_and_loses_nothing(servers: Servers, context: Context, tmp_path: Path) -> None:
    deployed(context, tmp_path)
    with service(context.settings, tmp_path) as started:
        started.wait_ready()
    cut_off = context.settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:1"})
    with service(cut_off, tmp_path) as started:
        started.wait_ready()
        prediction_ids = [started.ask(image).json()["id"] for image in IMAGES]
        assert logged_ids(context) == []
    with service(context.settings, tmp_path):
        wait_until(lambda: set(logged_ids(context)) == set(prediction_ids), what="the log")


def test_without_images_only_rows_are_kept(make_context: Callable[..., Context], tmp_path: Path) -> None:
    context = make_context(log_images="off")
    deployed(context, tmp_path)
    with service(context.settings, tmp_path) as started:
        started.wait_ready()
        answer = started.ask(IMAGES[0]).json()
        wait_until(lambda: answer["id"] in logged_ids(context), what="the row")
    with transaction(context.engine) as connection:
        row = connection.execute(select(predictions)).one()
    assert (row.image_object, row.image_offset) == (None, None)
    assert row.image_sha256 == hashlib.sha256(IMAGES[0]).hexdigest()
    assert list(context.store.list("predictions/")) == []
