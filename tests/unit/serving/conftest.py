"""A service without servers: the database and bucket addresses lead nowhere, the model is put in by hand."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr

from ml.models.variants import load_proven
from ml.settings import Settings
from serving.app import build
from serving.rollout.serving_model import ServingModel
from tests.bundles import make_bundle

LABELS = ("cat", "dog", "<b>bird</b>")


@pytest.fixture
def make_app(tmp_path: Path) -> Callable[..., FastAPI]:
    def make(**overrides: object) -> FastAPI:
        nowhere = {
            "home": tmp_path / "home",
            "database_url": SecretStr("postgresql+psycopg2://nobody@127.0.0.1:1/nothing"),
            "s3_endpoint": "http://127.0.0.1:1",
            "s3_secret_key": SecretStr("none"),
            "max_body_bytes": 1_000_000,
            "api_keys": "loopback",
        }
        return build(Settings.model_validate(nowhere | overrides), {})

    return make


@pytest.fixture
def live(tmp_path: Path) -> ServingModel:
    folder = tmp_path / "bundle"
    digest = make_bundle(folder, LABELS, size=8, channels=3, seed=3)
    return ServingModel(load_proven(folder, 1e-3), version=7, deployment_id=1, digest=digest, since=datetime.now(UTC))


@pytest.fixture
def client(make_app: Callable[..., FastAPI], live: ServingModel) -> TestClient:
    """Talks to a service with a live model; an exception that escapes it fails the test."""
    app = make_app()
    app.state.dependencies.slot.set(live)
    return near(app)


def near(app: FastAPI) -> TestClient:
    """A client on the service's own machine, which needs no key."""
    return TestClient(app, base_url="http://127.0.0.1:8000", client=("127.0.0.1", 50000))
