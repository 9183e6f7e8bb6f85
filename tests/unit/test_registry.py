"""What becomes of an MLflow that is not there, or not well."""

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from ml.errors import UnavailableError
from ml.models.registry import MLflowRegistry
from ml.settings import Settings
from tests.servers import free_port


class Failing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(500)
        self.end_headers()

    def do_POST(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Not on stderr."""


@pytest.fixture
def failing_url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Failing)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_nobody_at_the_address_is_said_at_once() -> None:
    registry = MLflowRegistry(Settings(mlflow_url=f"http://127.0.0.1:{free_port()}"))
    with pytest.raises(UnavailableError, match="does not answer at http://127"):
        registry.alias("champion")


def test_a_server_that_fails_is_unavailable(failing_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    registry = MLflowRegistry(Settings(mlflow_url=failing_url))
    for call in (
        registry.aliases,
        registry.find,
        lambda: registry.set_alias("champion", 1),
        lambda: registry.set_alias("champion", None),
        lambda: registry.tag(1, {"a": 1}),
        lambda: registry.tags(1),
        lambda: registry.bundle(1),
    ):
        with pytest.raises(UnavailableError, match="500"):
            call()


def test_mlflow_reports_to_nobody_and_keeps_off_stdout() -> None:
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] == "true"


def test_pages_for_people() -> None:
    registry = MLflowRegistry(Settings(mlflow_url="http://m", model_name="c"))
    assert registry.version_url(3) == "http://m/#/models/c/versions/3"
