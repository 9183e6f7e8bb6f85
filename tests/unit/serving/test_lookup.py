import threading
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from ml.catalog import api_keys
from ml.catalog.api_keys import Grant, StoredKey
from serving.prediction_log import lookup
from serving.prediction_log.log import Prediction, uuid7
from serving.prediction_log.lookup import LoggedRecord
from serving.rollout.serving_model import ServingModel
from tests.unit.serving.conftest import near
from tests.unit.serving.test_api import PNG, expect_problem, picture


def test_a_prediction_waiting_in_the_spool_is_found_and_what_may_be_stored_is_asked_for_later(
    client: TestClient,
) -> None:
    prediction = client.post("/v1/predict", content=picture(), headers=PNG).json()
    record = client.get(f"/v1/predictions/{prediction['id']}").json()
    assert (record["top"], record["stored"], record["image_kept"]) == (prediction["top"], False, True)
    expect_problem(client.get(f"/v1/predictions/{uuid7()}"), 503, "unavailable")  # Postgres may know it, and is away


def test_a_prediction_is_found_however_late_it_is_logged(
    make_app: Callable[..., FastAPI], live: ServingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()
    app.state.dependencies.slot.set(live)
    prediction_log, asked = app.state.dependencies.prediction_log, threading.Event()
    append, look_up = prediction_log.append, lookup.find_in_spool

    def append_late(prediction: Prediction) -> None:
        assert asked.wait(60)
        append(prediction)

    def look_up_first(root: Path, identifier: UUID) -> LoggedRecord | None:
        record = look_up(root, identifier)
        asked.set()
        return record

    monkeypatch.setattr(prediction_log, "append", append_late)
    monkeypatch.setattr(lookup, "find_in_spool", look_up_first)
    with near(app) as client:
        answer = client.post("/v1/predict", content=picture(), headers=PNG).json()
        assert client.get(f"/v1/predictions/{answer['id']}").json()["label"] == answer["label"]


def test_with_a_key_only_what_was_asked_for_with_it_is_found(
    make_app: Callable[..., FastAPI], live: ServingModel
) -> None:
    app = make_app()
    app.state.dependencies.slot.set(live)
    keys = {name: api_keys.generate() for name in ("ann", "ben")}
    grants = [
        StoredKey(str(api_keys.id_of(key)), api_keys.digest(key), Grant(name, ("predict",)), None)
        for name, key in keys.items()
    ]
    app.state.dependencies.access._key_ring.replace(grants)
    shown = {name: {"authorization": f"Bearer {key}"} for name, key in keys.items()}
    ask = near(app)
    prediction = ask.post("/v1/predict", content=picture(), headers=PNG | shown["ann"]).json()
    path = f"/v1/predictions/{prediction['id']}"
    assert ask.get(path, headers=shown["ann"]).json()["caller"] == "ann"
    for below in ("", "/explanation"):
        expect_problem(ask.get(path + below, headers=shown["ben"]), 404, "not_found")
    assert ask.get(path).status_code == 200  # this machine's own programs see all
