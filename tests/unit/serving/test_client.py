"""The client against the real app, and against a transport that fails as networks do."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from serving.client import AsyncClient, Client, Prediction, RefusedError, Retry, ServiceError, UnreachableError
from serving.client.retry import seconds_of
from serving.rollout.serving_model import ServingModel
from tests.unit.serving.test_access import known
from tests.unit.serving.test_api import picture

ONCE = Retry(attempts=1)
ANSWER = {"id": "0199a3c8-6d1e-7b3a-9c41-5f0d2e8a7b16", "model_version": 4, "label": "7", "probability": 0.75,
          "top": [{"label": "7", "probability": 0.75}], "milliseconds": 1.5, "rejected": False}  # fmt: skip


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, none of which took any time."""
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(asyncio, "sleep", pause)
    return pauses


def failing(*first: httpx.Response | Exception) -> Callable[[httpx.Request], httpx.Response]:
    """Fails in these ways, then answers."""
    left = list(first)

    def reply(request: httpx.Request) -> httpx.Response:
        failure = left.pop(0) if left else httpx.Response(200, json=ANSWER)
        if isinstance(failure, Exception):
            raise failure
        return failure

    return reply


def ask(how: str, reply: Callable[[httpx.Request], httpx.Response], retry: Retry | None = None) -> Any:
    """One prediction by either client."""
    transport = httpx.MockTransport(reply)
    if how == "waiting":
        with Client("http://service", "k", retry=retry, transport=transport) as client:
            return client.predict(b"image")

    async def run() -> Any:
        async with AsyncClient("http://service", "k", retry=retry, transport=transport) as client:
            return await client.predict(b"image")

    return asyncio.run(run())


both = pytest.mark.parametrize("how", ["waiting", "async"])


@both
def test_what_passes_is_tried_again(how: str, slept: list[float]) -> None:
    busy = httpx.Response(503, headers={"retry-after": "3"}, json={"detail": "d", "code": "overloaded"})
    lost, limited = httpx.ReadError("gone"), httpx.Response(429, text="slow down")
    answer = ask(how, failing(httpx.ConnectError("no"), busy, lost, limited, httpx.Response(502)))
    assert (answer.label, answer.model_version, answer.top[0].probability, answer.raw) == ("7", 4, 0.75, ANSWER)
    assert len(slept) == 5
    assert 3 <= slept[1] <= 3.2
    assert all(0 <= pause <= 0.1 * 2**n for n, pause in enumerate(slept) if n != 1)


@both
def test_what_does_not_pass_is_not(how: str, slept: list[float]) -> None:
    for status, kind in ((401, RefusedError), (422, RefusedError), (500, ServiceError), (301, ServiceError)):
        with pytest.raises(kind) as error:
            ask(how, failing(httpx.Response(status, json={"detail": "why", "code": "c", "request_id": "r"})))
        assert (error.value.status, error.value.code, error.value.request_id) == (status, "c", "r")
        assert "why" in str(error.value)
    for strange in (b"<html>", b"[]", b"{}", b"null"):
        with pytest.raises(ServiceError, match="not a response of the prediction service"):
            ask(how, failing(httpx.Response(200, content=strange)))
    assert slept == []


@both
def test_patience_ends(how: str, slept: list[float]) -> None:
    with pytest.raises(UnreachableError, match="does not answer"):
        ask(how, failing(*[httpx.ConnectTimeout("")] * 9), Retry(attempts=4))
    assert len(slept) == 3
    late = httpx.Response(429, headers={"retry-after": "3600"}, json={"detail": "d", "code": "too_often"})
    with pytest.raises(UnreachableError) as error:
        ask(how, failing(late))
    assert (error.value.retry_after, len(slept)) == (3600, 3)


def test_retry_after_is_seconds_or_a_date_or_nothing() -> None:
    assert seconds_of("7") == 7
    assert seconds_of("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert (seconds_of("Fri, 01 Jan 2100 00:00:00 GMT") or 0) > 1e9
    for nothing in (None, "", "soon", "-1", "1e3", "Fri, 01 Jan 2100 00:00:00"):
        assert seconds_of(nothing) is None


def test_every_method_speaks_with_the_real_app(make_app: Callable[..., FastAPI], live: ServingModel) -> None:
    """As the service answers: only what needs Postgres cannot be had here."""
    from ml.catalog import api_keys

    app = make_app(api_keys="required")
    app.state.dependencies.slot.set(live)
    key = api_keys.generate()
    app.state.dependencies.access._key_ring.replace([known(key, "admin")])

    async def run() -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=True)
        async with AsyncClient("http://service", key, retry=ONCE, transport=transport) as client:
            prediction = await client.predict(picture(), top=2, client_key="mine")
            assert (prediction.model_version, len(prediction.top), prediction.id.version) == (7, 2, 7)
            one, broken, other = await client.predict_batch([picture(), b"no image", picture()], top=2)
            assert isinstance(one, Prediction)
            assert isinstance(other, Prediction)
            assert (one.model_version, len(one.top), one.label) == (7, 2, prediction.label)
            assert one.id != other.id
            assert isinstance(broken, RefusedError)
            assert "not_an_image" in str(broken)
            model = await client.model()
            assert (model.version, model.labels) == (7, live.model.info.labels)
            assert [(one.variant, one.status) for one in model.variants] == [("fp32", "serving")]
            logged = await client.logged(prediction.id)
            assert (logged["id"], logged["client_key"], logged["stored"]) == (str(prediction.id), "mine", False)
            with pytest.raises(RefusedError, match="no_label"):
                await client.explanation(prediction.id, label="none")
            assert await client.feedback("cat", prediction_id=prediction.id) == "waiting"
            assert await client.feedback("cat", client_key="mine", comment="c") == "waiting"
            with pytest.raises(UnreachableError, match="unavailable"):
                await client.decide("ab12", approved=True, actor="ann")
            with pytest.raises(RefusedError, match="one of the two"):
                await client.feedback("cat")
            with pytest.raises(RefusedError, match="not_an_image"):
                await client.predict(b"no image")
        async with AsyncClient("http://service", "wrong", retry=ONCE, transport=transport) as client:
            with pytest.raises(RefusedError, match="bad_key"):
                await client.model()

    asyncio.run(run())


def test_the_client_carries_nothing_of_the_service() -> None:
    heavy = ("fastapi", "starlette", "sqlalchemy", "pydantic", "numpy", "onnxruntime", "PIL", "prometheus_client")
    code = f"import serving.client, sys; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
