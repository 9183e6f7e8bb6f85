"""Metrics, traces and log lines of two real workers, one of which is killed."""

import gzip
import itertools
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import orjson
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

import serving
from ml.context import Context
from tests.bundles import deployed
from tests.pictures import digits
from tests.servers import wait_until
from tests.serving_process import Hammer, Service, service

IMAGES = [data for _, data in digits()[:20]]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """An OTLP/HTTP receiver; its address, and the spans that came."""
    spans: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
            request = ExportTraceServiceRequest.FromString(body)
            spans.extend(s for r in request.resource_spans for scope in r.scope_spans for s in scope.spans)
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", spans
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def samples(running: Service) -> dict[tuple[str, str | None, str | None], float]:
    """By name, route and bucket or pid."""
    return {
        (s.name, s.labels.get("route"), s.labels.get("le") or s.labels.get("pid")): s.value
        for family in text_string_to_metric_families(running.get("/metrics").text)
        for s in family.samples
        if s.labels.get("status", "200") == "200"
    }


def pid_of(running: Service) -> str:
    return str(running.get("/v1/model").json()["replica"]).split(":")[1]


def test_metrics_traces_and_log_of_two_workers(context: Context, tmp_path: Path) -> None:
    deployed(context, tmp_path)
    with collector() as (url, spans):
        telling: dict[str, Any] = {
            "EVERGREEN_TRACES_URL": url,
            "EVERGREEN_TRACES_SHARE": "0",
            "EVERGREEN_ACCESS_LOG": "1",
        }
        telling |= {"UVICORN_LOG_CONFIG": str(Path(serving.__file__).with_name("uvicorn_json.json"))}
        telling |= {"EVERGREEN_LOG_FORMAT": "json", "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics")}
        with service(context.settings, tmp_path, **telling) as running:
            running.wait_ready()
            answered = _counted_through_a_kill(running)
            traced = running.ask(IMAGES[0], traceparent=f"00-{TRACE}-{PARENT}-01", **{"x-request-id": "traced-1"})
            assert traced.status_code == 200
            assert running.ask(b"secret picture", **{"x-request-id": "bad-1"}).status_code == 422
        _spans_tell_the_stages(spans)
        _lines_tell_the_requests(running, answered)


def _counted_through_a_kill(running: Service) -> int:
    """Nothing that was counted is lost or counted twice; only live workers have gauges."""
    with Hammer(running.url, IMAGES).swinging() as hammer:
        hammer.wait_for(100)
    first = len(hammer.answers)
    # The access log is written by a thread: what it had not written would die with the worker.
    wait_until(lambda: len(_predicted(running)) == first, what="a line for each answer")
    victim = pid_of(running)
    os.kill(int(victim), signal.SIGKILL)

    def replaced() -> bool:
        values = samples(running)
        pids = {pid for name, _, pid in values if name == "evergreen_model_version"}
        return (
            len(pids) == 2 and victim not in pids and all(values["evergreen_model_version", None, p] == 1 for p in pids)
        )

    wait_until(replaced, what="another worker in the place of the killed one")
    assert samples(running)["evergreen_requests_total", "/v1/predict", None] == first
    with Hammer(running.url, IMAGES).swinging() as again:
        again.wait_for(100)
    count = first + len(again.answers)
    for _ in range(4):  # whichever worker answers
        values = samples(running)
        assert values["evergreen_requests_total", "/v1/predict", None] == count
        assert values["evergreen_request_seconds_count", "/v1/predict", None] == count
        assert values["evergreen_request_seconds_sum", "/v1/predict", None] > 0
        buckets = {float(le): n for (name, route, le), n in values.items()
                   if name == "evergreen_request_seconds_bucket" and route == "/v1/predict" and le}  # fmt: skip
        heights = [buckets[le] for le in sorted(buckets)]
        assert heights == sorted(heights)
        assert heights[-1] == count
    assert again.failures == []
    return count


def _predicted(running: Service) -> list[dict[str, Any]]:
    """The access log's lines of answered images."""
    whole = running.log.read_text().rpartition("\n")[0]
    lines = [orjson.loads(line) for line in whole.splitlines() if line]
    requests = [line for line in lines if line["logger"] == "serving.access_log"]
    return [line for line in requests if (line["route"], line["status"]) == ("/v1/predict", 200)]


def _spans_tell_the_stages(spans: list[Any]) -> None:
    """Only the request that asked for it is traced, below the caller's own span."""
    assert {s.trace_id.hex() for s in spans} == {TRACE}
    (root,) = [s for s in spans if s.parent_span_id.hex() == PARENT]
    assert root.name == "POST /v1/predict"
    attributes = {a.key: a.value for a in root.attributes}
    assert attributes["http.response.status_code"].int_value == 200
    assert attributes["evergreen.request_id"].string_value == "traced-1"
    stages = sorted((s for s in spans if s is not root), key=lambda s: s.start_time_unix_nano)
    assert [s.name for s in stages] == ["receive", "queue", "decode", "inference"]
    assert {s.parent_span_id for s in stages} == {root.span_id}
    for before, after in itertools.pairwise(stages):
        assert before.end_time_unix_nano == after.start_time_unix_nano
    assert root.start_time_unix_nano <= stages[0].start_time_unix_nano + 1_000_000
    assert stages[-1].end_time_unix_nano <= root.end_time_unix_nano + 1_000_000


def _lines_tell_the_requests(running: Service, answered: int) -> None:
    """Each line is JSON; each request has one; no line holds anything of an image."""
    text = running.log.read_text()
    lines = [orjson.loads(line) for line in text.splitlines() if line]
    requests = [line for line in lines if line["logger"] == "serving.access_log"]
    assert len(_predicted(running)) == answered + 1
    (bad,) = [line for line in requests if line["request_id"] == "bad-1"]
    assert (bad["status"], bad["method"], bad["caller"]) == (422, "POST", None)
    assert {"time", "level", "process", "milliseconds"} <= bad.keys()
    assert any(line["logger"].startswith("uvicorn") for line in lines)
    assert "secret picture" not in text


def test_without_a_collector_the_service_goes_on(context: Context, tmp_path: Path) -> None:
    deployed(context, tmp_path)
    away = {"EVERGREEN_TRACES_URL": "http://127.0.0.1:9", "EVERGREEN_TRACES_SHARE": "1"}
    with service(context.settings, tmp_path, workers=1, **away) as running:
        running.wait_ready(workers=1)
        with httpx.Client() as http:
            for image in IMAGES:
                assert http.post(f"{running.url}/v1/predict", content=image).status_code == 200
