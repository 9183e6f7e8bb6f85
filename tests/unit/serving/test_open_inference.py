"""The protocol's own examples of requests against the real app; Triton's binary tensors byte for byte."""

import base64
import io
import json
import struct
from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np
import orjson
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from ml.imaging import images
from ml.imaging.images import Limits
from serving.prediction_log import spool
from serving.rollout.serving_model import ServingModel, Trial
from serving.rollout.trial_counters import TrialCounters
from tests.unit.serving.test_api import expect_problem, picture

MODEL = "/v2/models/classifier"
PIXELS = np.random.default_rng(3).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)


def tensor(**change: Any) -> dict[str, Any]:
    return {"name": "images", "shape": [2, 8, 8, 3], "datatype": "UINT8", "data": PIXELS.tolist()} | change


def encoded(*data: bytes, **change: Any) -> dict[str, Any]:
    texts = [base64.b64encode(one).decode() for one in data]
    return {"name": "encoded_images", "shape": [len(data)], "datatype": "BYTES", "data": texts} | change


def infer(client: TestClient, body: dict[str, Any], path: str = MODEL) -> dict[str, Any]:
    answer = client.post(f"{path}/infer", json=body)
    assert answer.status_code == 200, answer.text
    result = answer.json()
    return result | {"by_name": {o["name"]: o for o in result["outputs"]}}


def test_the_server_and_the_model_tell_of_themselves(client: TestClient) -> None:
    assert client.get("/v2").json().keys() == {"name", "version", "extensions"}
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    for path in (MODEL, f"{MODEL}/versions/7"):
        assert client.get(f"{path}/ready").json() == {"ready": True}
        metadata = client.get(path).json()
        assert (metadata["name"], metadata["versions"]) == ("classifier", ["7"])
        assert metadata["inputs"][0] == {"name": "images", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}
        assert metadata["outputs"][0] == {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}
    for path in ("/v2/models/other", f"{MODEL}/versions/8"):
        for answer in (client.get(path), client.get(f"{path}/ready"), client.post(f"{path}/infer", json={})):
            expect_problem(answer, 404, "not_found")


def test_a_canary_answers_a_request_whole_and_never_one_for_a_version(client: TestClient, live: ServingModel) -> None:
    slot = client.app.state.dependencies.slot  # type: ignore[attr-defined]
    slot.set_trial(Trial(replace(live, version=8, deployment_id=2), "canary", 0.5, TrialCounters()))
    seen = set()
    for _ in range(40):
        response = infer(client, {"inputs": [tensor()]})
        seen.add(response["model_version"])
        np.testing.assert_allclose(
            np.reshape(response["by_name"]["probabilities"]["data"], (2, 3)), live.model.predict(PIXELS), atol=2e-6
        )
        assert infer(client, {"inputs": [tensor()]}, f"{MODEL}/versions/7")["model_version"] == "7"
    assert seen == {"7", "8"}


def test_a_tensor_is_answered_as_the_model_answers(client: TestClient, live: ServingModel) -> None:
    expected = live.model.predict(PIXELS)
    for data in (PIXELS.tolist(), PIXELS.ravel().tolist()):
        response = infer(client, {"id": "mine", "inputs": [tensor(data=data)]})
        assert (response["model_name"], response["model_version"], response["id"]) == ("classifier", "7", "mine")
        output = response["by_name"]["probabilities"]
        assert (output["datatype"], output["shape"]) == ("FP32", [2, 3])
        np.testing.assert_allclose(np.reshape(output["data"], (2, 3)), expected, atol=2e-6)
        assert response["by_name"]["label"]["data"] == [live.model.info.labels[i] for i in expected.argmax(1)]


def test_encoded_images_are_answered_as_predict_answers_and_every_row_is_logged(
    client: TestClient, live: ServingModel
) -> None:
    response = infer(client, {"inputs": [encoded(picture(), picture("JPEG"))], "id": "k"}, f"{MODEL}/versions/7")
    pixels = images.decode(picture(), 8, 3, Limits(10**6, 10**6))
    expected = live.model.predict(pixels[np.newaxis])[0]
    np.testing.assert_allclose(response["by_name"]["probabilities"]["data"][:3], expected, atol=2e-6)
    client.app.state.dependencies.inference.close(10)  # type: ignore[attr-defined]  # then all is logged
    own = client.app.state.dependencies.predictor._log._spool  # type: ignore[attr-defined]
    rows = [orjson.loads(r.row) for path in own.closed_files(age=0) for r in spool.decode(path.read_bytes()).records]
    assert sorted(response["by_name"]["id"]["data"]) == sorted(row["id"] for row in rows)
    assert {row["client_key"] for row in rows} == {"k"}
    assert {row["image_sha256"] for row in rows} == {sha256(d).hexdigest() for d in (picture(), picture("JPEG"))}


def test_binary_tensors_in_and_out(client: TestClient, live: ServingModel) -> None:
    raw, one = PIXELS.tobytes(), picture()
    elements = struct.pack("<I", len(one)) + one
    for given, data in (
        (tensor(parameters={"binary_data_size": len(raw)}), raw),
        (encoded(one, parameters={"binary_data_size": len(elements)}), elements),
    ):
        del given["data"]
        wanted = [{"name": "label", "parameters": {"binary_data": True}}, {"name": "probabilities"}]
        wanted += [{"name": "id", "parameters": {"binary_data": True}}]
        head = orjson.dumps({"inputs": [given], "outputs": wanted})
        length = {"inference-header-content-length": str(len(head))}
        answer = client.post(f"{MODEL}/infer", content=head + data, headers=length)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/octet-stream"
        json_length = int(answer.headers["inference-header-content-length"])
        outputs = orjson.loads(answer.content[:json_length])["outputs"]
        assert [o["name"] for o in outputs] == ["label", "probabilities", "id"]
        tail = answer.content[json_length:]
        sizes = [outputs[i]["parameters"]["binary_data_size"] for i in (0, 2)]
        assert len(tail) == sum(sizes)
        (first,) = struct.unpack_from("<I", tail)
        best = int(np.argmax(outputs[1]["data"][:3]))
        assert tail[4 : 4 + first].decode() == live.model.info.labels[best]
    whole = orjson.dumps({"inputs": [tensor()], "parameters": {"binary_data_output": True}})
    answer = client.post(f"{MODEL}/infer", content=whole)
    tail = answer.content[int(answer.headers["inference-header-content-length"]) :]
    np.testing.assert_allclose(np.frombuffer(tail, "<f4", 6).reshape(2, 3), live.model.predict(PIXELS), atol=2e-6)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{", b"{}", b'{"inputs": []}', b"\xff",
        {"inputs": [tensor(), tensor()]},
        {"inputs": [tensor(shape=[2, 8, 8, 1])]}, {"inputs": [tensor(shape=[])]},
        {"inputs": [tensor(shape=[-1, 8, 8, 3])]},
        {"inputs": [tensor(shape=[2**62, 8, 8, 3])]}, {"inputs": [tensor(shape=[65, 8, 8, 3])]},
        {"inputs": [tensor(datatype="FP32")]}, {"inputs": [tensor(name="other")]},
        {"inputs": [tensor(data=None)]}, {"inputs": [tensor(data=[1, 2])]}, {"inputs": [tensor(data=[[1], [1, 2]])]},
        {"inputs": [tensor(data=["a"] * 384)]}, {"inputs": [tensor(data=[256] * 384)]},
        {"inputs": [tensor(data=[-1] * 384)]}, {"inputs": [tensor(data=[1.5] * 384)]},
        {"inputs": [tensor(data=[2**70] * 384)]}, {"inputs": [tensor(data=[None] * 384)]},
        {"inputs": [tensor(data=[True] * 384)]}, {"inputs": [tensor(parameters={"binary_data_size": 3})]},
        {"inputs": [tensor(parameters={"binary_data_size": True})]},
        {"inputs": [encoded(data=["?"], shape=[1])]}, {"inputs": [encoded(data=[1], shape=[1])]},
        {"inputs": [encoded(b"x", shape=[2])]}, {"inputs": [encoded(b"x", shape=[1, 2])]},
        {"inputs": [encoded(data=["é"], shape=[1])]},
        {"inputs": [tensor()], "outputs": [{"name": "none"}]}, {"inputs": [tensor()], "id": 3},
    ],
    ids=lambda body: str(body)[:80],
)  # fmt: skip
def test_what_does_not_follow_the_protocol_is_told_so(client: TestClient, body: Any) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post(f"{MODEL}/infer", content=content)
    expect_problem(answer, 400, "invalid")
    assert answer.json()["error"] == answer.json()["detail"]


@pytest.mark.parametrize("length", ["x", "-1", "99999999999999999999", "100000", "²"])
def test_a_json_length_that_cannot_be_is_told_so(client: TestClient, length: str) -> None:
    headers = {"inference-header-content-length": length.encode()}
    expect_problem(client.post(f"{MODEL}/infer", content=b"{}", headers=headers), 400, "invalid")


@pytest.mark.parametrize("raw", [b"\x01", b"\xff\xff\xff\xff", struct.pack("<I", 5) + b"abc"])
def test_binary_elements_that_end_too_early_are_told_so(client: TestClient, raw: bytes) -> None:
    given = {"name": "encoded_images", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    head = orjson.dumps({"inputs": [given]})
    headers = {"inference-header-content-length": str(len(head))}
    expect_problem(client.post(f"{MODEL}/infer", content=head + raw, headers=headers), 400, "invalid")


def test_an_image_that_is_none_fails_the_request(client: TestClient) -> None:
    answer = client.post(f"{MODEL}/infer", json={"inputs": [encoded(picture(), b"none")]})
    expect_problem(answer, 422, "not_an_image")
    assert answer.json()["error"]


def test_grey_pixels_come_through_unchanged() -> None:
    from serving.inference.open_inference import parse_request

    grey = np.random.default_rng(3).integers(0, 256, (1, 9, 9, 1), dtype=np.uint8)
    body = orjson.dumps({"inputs": [tensor(shape=[1, 9, 9, 1], data=grey.tolist())]})
    (png,) = parse_request(body, None, 9, 1).images
    assert Image.open(io.BytesIO(png)).mode == "L"
    np.testing.assert_array_equal(images.decode(png, 9, 1, Limits(10**6, 10**6)), grey[0])
