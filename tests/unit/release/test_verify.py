"""What a released service must answer to its golden probes."""

import io
import json
from collections.abc import Callable

import httpx
import numpy as np
import pytest
from PIL import Image

from ml.release import verify
from ml.release.verify import _Probe

PROBE = _Probe(b"png", 7, (("cat", 0.90), ("dog", 0.55)))
"""Its reduced-precision variant says dog."""


def send(
    answer: Callable[[httpx.Request], httpx.Response], probes: tuple[_Probe, ...] = (PROBE,)
) -> tuple[str, bool] | None:
    """Message of the first problem and whether it is transient."""
    with httpx.Client(base_url="http://service", transport=httpx.MockTransport(answer)) as http:
        problem = verify._send_probes(http, probes)
    return (problem.message, problem.transient) if problem else None


def answered(label: str = "cat", probability: float = 0.9, version: int = 7, status: int = 200) -> httpx.Response:
    body = {"model_version": version, "label": label, "probability": probability}
    return httpx.Response(status, content=json.dumps(body))


@pytest.mark.parametrize(
    ("label", "probability"), [("cat", 0.9), ("cat", 0.919), ("cat", 0.881), ("dog", 0.55), ("dog", 0.569)]
)
def test_an_answer_of_any_variant_within_the_tolerance_is_right(label: str, probability: float) -> None:
    assert send(lambda _: answered(label, probability)) is None


@pytest.mark.parametrize(
    ("label", "probability"),
    [("cat", 0.921), ("cat", 0.879), ("dog", 0.9), ("cat", 0.55), ("bird", 0.9), ("cat", float("nan"))],
)
def test_another_answer_is_a_problem_of_the_model(label: str, probability: float) -> None:
    message, transient = send(lambda _: answered(label, probability)) or ("", True)
    assert message.endswith(f"answered {label} ({probability:.4f}), expected cat (0.9000) or dog (0.5500)")
    assert not transient


def test_an_answer_of_another_version_may_be_of_a_worker_that_is_late() -> None:
    assert send(lambda _: answered(version=6)) == ("a probe was answered by version 6, not 7", True)


@pytest.mark.parametrize(
    ("status", "transient"),
    [(429, True), (502, True), (503, True), (504, True), (500, False), (404, False), (401, False), (422, False)],
)
def test_only_a_busy_service_is_asked_again(status: int, transient: bool) -> None:
    message, again = send(lambda _: answered(status=status)) or ("", None)
    assert f"http://service/v1/predict answers {status} to a probe" in message
    assert again is transient


def test_a_service_that_does_not_answer_is_asked_again() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    message, transient = send(refuse) or ("", False)
    assert "does not answer probes" in message
    assert transient


@pytest.mark.parametrize(
    "content",
    [
        b"<html>",
        b"[]",
        b"null",
        b"{}",
        b'{"model_version": 7, "label": "cat"}',
        b'{"model_version": 7, "label": "cat", "probability": "high"}',
        b'{"model_version": 7, "label": "cat", "probability": null}',
    ],
)
def test_something_else_at_the_address_is_named(content: bytes) -> None:
    message, transient = send(lambda _: httpx.Response(200, content=content)) or ("", True)
    assert "is no service of ours" in message
    assert not transient


def test_every_probe_is_sent_until_one_fails() -> None:
    probes = tuple(_Probe(name, 7, (("cat", 0.9),)) for name in (b"first", b"second", b"third"))
    bodies: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.path) == ("POST", "/v1/predict")
        assert request.headers["content-type"] == "image/png"
        bodies.append(request.content)
        return answered("cat" if request.content != wrong else "dog")

    wrong = b""
    assert send(answer, probes) is None
    assert bodies == [b"first", b"second", b"third"]
    bodies, wrong = [], b"second"
    assert send(answer, probes) is not None
    assert bodies == [b"first", b"second"]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_probe_is_sent_without_loss(channels: int, mode: str) -> None:
    pixels = np.arange(5 * 4 * channels, dtype=np.uint8).reshape(5, 4, channels)
    with Image.open(io.BytesIO(verify._png(pixels))) as image:
        assert (image.format, image.mode, image.size) == ("PNG", mode, (4, 5))
        assert np.array_equal(np.asarray(image).reshape(5, 4, channels), pixels)
