import io
import uuid
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import orjson
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from ml.imaging import images
from ml.imaging.images import Limits
from serving.api.routes import predict
from serving.prediction_log import spool
from serving.prediction_log.log import uuid7
from serving.rollout.serving_model import ServingModel
from tests.unit.serving.conftest import near

PNG = {"content-type": "image/png"}


def picture(kind: str = "PNG", side: int = 20, **options: object) -> bytes:
    pixels = np.random.default_rng(5).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def expect_problem(answer: httpx.Response, status: int, code: str) -> None:
    body = answer.json()
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert (body["status"], body["code"], body["type"]) == (status, code, f"urn:evergreen:problem:{code}")
    assert body["title"]
    assert body["detail"]
    assert body["request_id"] == answer.headers["x-request-id"]


def test_an_answer_is_the_models_and_names_it(client: TestClient, live: ServingModel) -> None:
    answer = client.post("/v1/predict", content=picture(), headers=PNG).json()
    pixels = images.decode(picture(), 8, 3, Limits(10**6, 10**6))
    expected = live.model.predict(pixels[np.newaxis])[0]
    best = int(expected.argmax())
    assert answer["label"] == live.model.info.labels[best]
    assert answer["probability"] == pytest.approx(float(expected[best]), abs=1e-6)
    assert answer["model_version"] == 7
    assert [t["probability"] for t in answer["top"]] == sorted((t["probability"] for t in answer["top"]), reverse=True)
    assert len(answer["top"]) == 3
    assert uuid.UUID(answer["id"]).version == 7
    assert answer["milliseconds"] > 0


def test_form_and_raw_body_are_the_same(client: TestClient) -> None:
    data = picture()
    raw = client.post("/v1/predict", content=data, headers=PNG).json()
    untyped = client.post("/v1/predict", content=data).json()
    form = client.post("/v1/predict", files={"other": b"x", "file": ("a.png", data)}).json()
    nameless = b"--b\r\nContent-Disposition: form-data; name=file\r\n\r\n" + data + b"\r\n--b--\r\n"
    field = client.post(
        "/v1/predict", content=nameless, headers={"content-type": "multipart/form-data; boundary=b"}
    ).json()
    assert raw["top"] == untyped["top"] == form["top"] == field["top"]


def test_a_form_larger_than_a_megabyte_stays_in_memory(make_app: Callable[..., FastAPI], live: ServingModel) -> None:
    app = make_app(max_body_bytes=20_000_000)
    app.state.dependencies.slot.set(live)
    data = picture("BMP", 1200)
    assert len(data) > 4_000_000
    answer = near(app).post("/v1/predict", files={"file": data})
    assert answer.status_code == 200


def test_top_limits_what_is_returned(client: TestClient) -> None:
    answer = client.post("/v1/predict?top=1", content=picture(), headers=PNG).json()
    assert len(answer["top"]) == 1
    for wrong in ("0", "x", "1001", ""):
        expect_problem(client.post(f"/v1/predict?top={wrong}", content=picture(), headers=PNG), 422, "invalid")


def test_every_answer_is_logged_except_for_probes(client: TestClient) -> None:
    own = client.app.state.dependencies.predictor._log._spool  # type: ignore[attr-defined]
    prediction = client.post("/v1/predict", content=picture(), headers=PNG | {"x-client-key": "key-1"}).json()
    client.post("/v1/predict", content=picture(), headers=PNG | {"x-evergreen-probe": "1"})
    client.post("/v1/predict", content=b"nonsense", headers=PNG)
    client.app.state.dependencies.inference.close(10)  # type: ignore[attr-defined]  # then all is logged
    (path,) = own.closed_files(age=0)
    (record,) = spool.decode(path.read_bytes()).records
    row = orjson.loads(record.row)
    assert (row["id"], row["client_key"], row["width"], row["variant"]) == (prediction["id"], "key-1", 20, "fp32")
    dependencies = [row[f"{part}_milliseconds"] for part in ("queue", "decode", "inference")]
    assert 0 < sum(dependencies) <= row["milliseconds"] == prediction["milliseconds"]
    assert record.member is not None
    assert path.with_suffix(".tar").read_bytes()[record.member.offset :][: record.member.size] == picture()


def test_without_a_model_the_service_is_alive_but_not_ready(make_app: Callable[..., FastAPI]) -> None:
    client = near(make_app())
    assert client.get("/healthz").json() == {"status": "alive"}
    for answer in (
        client.get("/readyz"),
        client.get("/v1/model"),
        client.post("/v1/predict", content=picture(), headers=PNG),
    ):
        expect_problem(answer, 503, "no_model")
        assert int(answer.headers["retry-after"]) >= 1


def test_the_live_model_is_told(client: TestClient, live: ServingModel) -> None:
    model = client.get("/v1/model").json()
    assert model["version"] == 7
    assert model["labels"] == list(live.model.info.labels)
    assert (model["image_size"], model["channels"]) == (8, 3)
    assert (model["dataset_version"], model["run_id"]) == (live.model.info.dataset_version, live.model.info.run_id)
    assert model["replica"].count(":") == 2
    fp32: dict[str, object] = {"variant": "fp32", "status": "serving", "reason": "", "speedup": None, "proven_on": []}
    assert model["variants"] == [fp32]
    assert client.get("/readyz").json() == {"status": "ready", "model_version": 7}


def hostile() -> Iterator[tuple[str, bytes]]:
    good = picture()
    yield "empty", b""
    yield "text", b"hello, I am a picture"
    yield "svg", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"
    yield "eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n"
    yield "pickle", b"\x80\x04\x95cos\nsystem\n(S'true'\ntR."
    yield "zip", b"PK\x03\x04" + bytes(200)
    yield "header only", good[:40]
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        data = picture(kind)
        yield f"half a {kind}", data[: len(data) // 2]
        middle = len(data) // 3
        yield f"scrambled {kind}", data[:middle] + bytes(reversed(data[middle:]))
        yield f"{kind} with noise", bytes(b ^ (i % 97 == 0) for i, b in enumerate(data))
    yield "bomb", _png_claiming(60_000, 60_000)
    yield "zero wide", _png_claiming(0, 10)


def _png_claiming(width: int, height: int) -> bytes:
    import struct
    import zlib

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("name", "data"), list(hostile()), ids=lambda v: v if isinstance(v, str) else "")
def test_hostile_images_are_answered_and_never_500(client: TestClient, name: str, data: bytes) -> None:
    for answer in (
        client.post("/v1/predict", content=data, headers=PNG),
        client.post("/v1/predict", files={"file": ("../../etc/passwd", data)}),
    ):
        assert answer.status_code in (200, 422), answer.text
        if answer.status_code == 422:
            expect_problem(answer, 422, answer.json()["code"])


def test_mutated_images_are_never_500(client: TestClient) -> None:
    rng = np.random.default_rng(11)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        data = np.frombuffer(picture(kind), np.uint8)
        for _ in range(60):
            mutated = data.copy()
            where = rng.integers(0, len(data), rng.integers(1, 9))
            mutated[where] = rng.integers(0, 256, len(where))
            answer = client.post("/v1/predict", content=mutated.tobytes(), headers=PNG)
            assert answer.status_code in (200, 422), (kind, answer.text)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_each_format_is_read(client: TestClient, kind: str) -> None:
    assert client.post("/v1/predict", content=picture(kind), headers=PNG).status_code == 200


def test_other_content_types_are_turned_away_with_advice(client: TestClient) -> None:
    for kind in ("application/x-www-form-urlencoded", "text/plain", "application/json"):
        answer = client.post("/v1/predict", content=picture(), headers={"content-type": kind})
        expect_problem(answer, 415, "unsupported_media_type")
        assert "multipart/form-data" in answer.json()["detail"]


def test_broken_forms_are_turned_away(client: TestClient) -> None:
    form = {"content-type": "multipart/form-data; boundary=b"}
    cut = b"--b\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\nabc"
    expect_problem(client.post("/v1/predict", content=cut, headers=form), 422, "no_file")
    expect_problem(client.post("/v1/predict", content=b"no boundary in here", headers=form), 400, "broken_form")
    unbound = {"content-type": "multipart/form-data"}
    expect_problem(client.post("/v1/predict", content=b"x", headers=unbound), 400, "broken_form")
    expect_problem(client.post("/v1/predict", files={"image": b"x"}), 422, "no_file")
    many = [("x", (f"{i}", b"")) for i in range(100)]
    expect_problem(client.post("/v1/predict", files=many), 400, "broken_form")


def test_a_body_too_large_is_turned_away_announced_or_not(client: TestClient) -> None:
    expect_problem(client.post("/v1/predict", content=bytes(1_000_001), headers=PNG), 413, "content_too_large")

    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield bytes(100_000)

    expect_problem(client.post("/v1/predict", content=chunks(), headers=PNG), 413, "content_too_large")
    expect_problem(client.post("/v1/feedback", content=bytes(1_000_001)), 413, "content_too_large")


def test_an_image_may_have_as_many_pixels_as_are_set(make_app: Callable[..., FastAPI], live: ServingModel) -> None:
    app = make_app(max_image_pixels=399)
    app.state.dependencies.slot.set(live)
    expect_problem(near(app).post("/v1/predict", content=picture(side=20), headers=PNG), 422, "too_many_pixels")


def test_who_comes_when_too_many_wait_is_told_to_come_back(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    line = client.app.state.dependencies.inference  # type: ignore[attr-defined]
    monkeypatch.setattr(line, "_in_flight", line._max_waiting + 1)
    answer = client.post("/v1/predict", content=picture(), headers=PNG)
    expect_problem(answer, 503, "overloaded")
    assert answer.headers["retry-after"]


def test_a_model_without_an_answer_is_no_200(client: TestClient, live: ServingModel, tmp_path: object) -> None:
    import dataclasses
    from pathlib import Path

    from tests.bundles import loaded, make_bundle

    folder = Path(str(tmp_path)) / "nan"
    make_bundle(folder, ("a", "b"), bias=float("nan"))
    client.app.state.dependencies.slot.set(dataclasses.replace(live, model=loaded(folder)))  # type: ignore[attr-defined]
    expect_problem(client.post("/v1/predict", content=picture(), headers=PNG), 500, "model_failed")


def test_an_error_of_our_own_is_a_problem_with_an_id_and_says_nothing_more(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(**_: object) -> None:
        raise RuntimeError("secret words")

    monkeypatch.setattr(predict, "PredictionRequest", broken)
    answer = client.post("/v1/predict", content=picture(), headers=PNG | {"x-request-id": "abc-1"})
    expect_problem(answer, 500, "internal")
    assert "secret" not in answer.text
    assert "abc-1" in caplog.text
    assert "secret words" in caplog.text


def test_404_405_and_bad_json_are_problems(client: TestClient) -> None:
    expect_problem(client.get("/nothing"), 404, "not_found")
    expect_problem(client.get("/v1/predict"), 405, "method_not_allowed")
    expect_problem(
        client.post("/v1/feedback", content=b"{", headers={"content-type": "application/json"}), 422, "invalid"
    )
    expect_problem(client.get("/console/static/../../app.py"), 404, "not_found")


@pytest.mark.parametrize(
    "change",
    [
        {"prediction_id": "x"},
        {"prediction_id": str(uuid.uuid4())},
        {"label": ""},
        {"label": " \t"},
        {"label": "a" * 201},
        {"label": "nul\0"},
        {"label": "a/b"},
        {"label": "a\\b"},
        {"label": "tab\tbed"},
        {"label": None},
        {"source": ""},
        {"comment": "c" * 3000},
        {"more": 1},
        {"client_key": "both"},
        {"prediction_id": None},
        {"prediction_id": None, "client_key": "tab\t"},
    ],
)
def test_feedback_that_does_not_fit_is_turned_away(client: TestClient, change: dict[str, object]) -> None:
    body = {"prediction_id": str(uuid7()), "label": "cat"} | change
    expect_problem(client.post("/v1/feedback", json=body), 422, "invalid")


def test_feedback_without_a_database_is_kept_and_without_room_refused(client: TestClient) -> None:
    dependencies = client.app.state.dependencies  # type: ignore[attr-defined]
    prediction_id = str(uuid7())
    answer = client.post("/v1/feedback", json={"prediction_id": prediction_id, "label": "cat"})
    assert (answer.status_code, answer.json()["prediction_id"]) == (202, prediction_id)
    assert (answer.json()["level"], answer.json()["standing"]) == ("propose", "unknown")
    near = client.post("/v1/feedback", json={"prediction_id": prediction_id, "label": "Cat_"})
    expect_problem(near, 422, "near_class")
    assert "did you mean `cat`?" in near.json()["detail"]
    assert client.post("/v1/feedback", json={"client_key": "mine", "label": "cat"}).status_code == 202
    assert dependencies.prediction_log.stats()["waiting_bytes"] > 0
    dependencies.prediction_log.other_spools_bytes = dependencies.settings.spool_bytes
    answer = client.post("/v1/feedback", json={"prediction_id": prediction_id, "label": "cat"})
    expect_problem(answer, 503, "unavailable")
    assert "127.0.0.1" not in answer.text


def test_request_ids_are_kept_when_sane_and_made_otherwise(client: TestClient) -> None:
    assert client.get("/healthz", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    for strange in ("a b", "x" * 101, "<script>", ""):
        given = client.get("/healthz", headers={"x-request-id": strange}).headers["x-request-id"]
        assert given != strange
        assert len(given) == 32


def test_every_answer_carries_security_headers(client: TestClient) -> None:
    for path in ("/", "/healthz", "/nothing", "/docs", "/console/static/app.js"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe-inline" not in client.get("/").headers["content-security-policy"]
    assert "access-control-allow-origin" not in client.get("/healthz", headers={"origin": "http://evil"}).headers


def test_metrics_count_by_route_and_status(client: TestClient) -> None:
    client.post("/v1/predict", content=picture(), headers=PNG)
    client.post("/v1/predict", content=b"x", headers=PNG)
    client.get("/no/such/path/1")
    samples = {
        (s.name, s.labels.get("route"), s.labels.get("status")): s.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for s in family.samples
    }
    assert samples["evergreen_requests_total", "/v1/predict", "200"] == 1
    assert samples["evergreen_requests_total", "/v1/predict", "422"] == 1
    assert samples["evergreen_requests_total", "unmatched", "404"] == 1
    assert samples["evergreen_request_seconds_count", "/v1/predict", None] == 2


def test_docs_and_openapi_need_nobody_elses_server(client: TestClient) -> None:
    page = client.get("/docs").text
    assert "https://" not in page
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert asset in page
        assert client.get(f"/static-offline-docs/{asset}").status_code == 200
    document = client.get("/openapi.json").json()
    content = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]
    assert {"multipart/form-data", "image/png", "application/octet-stream"} <= set(content)
    answers = document["paths"]["/v1/predict"]["post"]["responses"]
    assert {"200", "413", "415", "422", "503"} <= set(answers)
    assert "Problem" in document["components"]["schemas"]
    assert "HTTPValidationError" not in str(answers)


def test_the_console_answers_without_a_catalog(client: TestClient) -> None:
    overview = client.get("/v1/console/overview").json()
    assert overview["catalog"] == "away"
    assert overview["model"]["version"] == 7
    for path in ("/", "/console"):
        page = client.get(path)
        assert page.headers["content-type"].startswith("text/html")
        assert "Evergreen" in page.text
        assert "https://" not in page.text


def test_settings_cannot_break_out_of_the_page(make_app: Callable[..., FastAPI]) -> None:
    page = near(make_app(model_name='"><script>alert(1)</script>')).get("/").text
    assert "<script>alert" not in page
