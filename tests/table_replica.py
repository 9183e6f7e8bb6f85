"""Replicas as the release sees them, rows in a table; and a service behind whose address anything may answer."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
from sqlalchemy import func, text

from ml.catalog import deployments
from ml.catalog.deployments import DeploymentRecord
from ml.catalog.engine import transaction
from ml.catalog.tables import replicas
from ml.context import Context
from ml.imaging import images
from ml.imaging.images import Limits
from tests.bundles import loaded

Temper = Literal["loads", "refuses", "ignores", "dies"]
Reply = tuple[int, bytes]


@contextmanager
def replica(ctx: Context, name: str, temper: Temper = "loads") -> Iterator[None]:
    """Follows the table protocol until the block ends: beats, and does with a new wish what its temper says.

    The first deployment it finds live it runs, whatever its temper.
    """
    with transaction(ctx.engine) as connection:
        wish = deployments.desired(connection)
        state = _running(wish) if wish and wish.status == "live" else {}
        connection.execute(replicas.insert().values(id=name, host="here", pid=1, **state))
    stop = threading.Event()
    thread = threading.Thread(target=_follow, args=(ctx, name, temper, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def dead_replica(ctx: Context, name: str, **columns: Any) -> None:
    """One that stopped beating long ago and never signed off."""
    with transaction(ctx.engine) as connection:
        connection.execute(
            replicas.insert().values(
                id=name, host="h", pid=1, heartbeat_at=func.now() - text("interval '1 hour'"), **columns
            )
        )


def _follow(ctx: Context, name: str, temper: Temper, stop: threading.Event) -> None:
    while not stop.wait(0.05):
        with transaction(ctx.engine) as connection:
            wish, tried = deployments.desired(connection), deployments.on_trial(connection)
            news: dict[str, Any] = {"candidate_deployment_id": tried.id if tried else None}
            if tried and temper != "loads":
                wish = replace(tried, status="rolling")
            if wish and wish.status == "rolling" and temper == "refuses":
                news = {"failed_deployment_id": wish.id, "error": "probe is off by 0.5"}
            elif wish and wish.status == "rolling" and temper == "dies":
                _beat(connection, name, news)
                return
            elif wish and (temper == "loads" or wish.status == "live"):
                news |= _running(wish)
            _beat(connection, name, news)


def _beat(connection: Any, name: str, news: dict[str, Any]) -> None:
    connection.execute(replicas.update().where(replicas.c.id == name).values(heartbeat_at=func.now(), **news))


def _running(wish: DeploymentRecord) -> dict[str, Any]:
    return {"deployment_id": wish.id, "model_version": wish.model_version}


@contextmanager
def answering(reply: Callable[[bytes], Reply]) -> Iterator[str]:
    """An HTTP server whose every POST is answered by `reply(body)`; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, body = reply(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def honest(ctx: Context, folders: dict[int, Path]) -> Callable[[bytes], Reply]:
    """Answers as the wished version would, from the bundles' folders."""
    models = {version: loaded(folder) for version, folder in folders.items()}

    def reply(body: bytes) -> Reply:
        with transaction(ctx.engine) as connection:
            wish = deployments.desired(connection)
        if wish is None:
            return 503, b"{}"
        model = models[wish.model_version]
        pixels = images.decode(body, model.info.image_size, model.info.channels, Limits(10**6, 10**6))
        probabilities = model.predict(pixels[np.newaxis])[0]
        best = int(probabilities.argmax())
        answer = {"model_version": wish.model_version, "label": model.info.labels[best]}
        return 200, orjson.dumps(answer | {"probability": float(probabilities[best])})

    return reply
