"""The real service for tests: uvicorn with workers on a free port, and clients that hammer it."""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select

from ml.catalog.engine import transaction
from ml.catalog.tables import predictions, replicas
from ml.context import Context
from ml.settings import Settings
from serving.client import Client, Retry, ServiceError
from tests.environment import environment
from tests.servers import free_port, process, wait_until


@dataclass(frozen=True)
class Service:
    """A running service."""

    url: str
    log: Path

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=30)

    def ask(self, image: bytes, **headers: str) -> httpx.Response:
        kind = {"content-type": "image/png"}
        return httpx.post(f"{self.url}/v1/predict", content=image, headers=kind | headers, timeout=30)

    def wait_ready(self, workers: int = 2) -> None:
        """Until all workers have started, and as many requests in a row as leave no doubt find a model."""

        def all_ready() -> bool:
            if self.log.read_text().count("Application startup complete.") < workers:
                return False
            return all(self.get("/readyz").status_code == 200 for _ in range(6 * workers))

        wait_until(all_ready, what=f"a ready service; its log:\n{self.log.read_text()[-3000:]}")


@contextmanager
def service(settings: Settings, folder: Path, workers: int = 2, **more: str) -> Iterator[Service]:
    """Started, but without a promise that it has a model; stopped as a supervisor would."""
    port = free_port()
    command = [sys.executable, "-m", "serving", "--workers", str(workers), "--port", str(port)]
    log = folder / f"service-{port}.log"
    url = f"http://127.0.0.1:{port}"
    own = environment(settings.model_copy(update={"service_url": url}))
    with process(command, own | more, log):
        running = Service(url, log)
        wait_until(lambda: running.get("/healthz").status_code == 200, what="the service's first answer")
        yield running


@dataclass
class Hammer:
    """Asks from several threads until told to stop; keeps every answer.

    Attributes:
        answers: the bodies of all 200 answers, with when they came.
        failures: everything else, connection errors among it.
    """

    url: str
    images: list[bytes]
    answers: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @contextmanager
    def swinging(self, threads: int = 4) -> Iterator["Hammer"]:
        stop = threading.Event()
        swingers = [threading.Thread(target=self._swing, args=(n, stop), daemon=True) for n in range(threads)]
        for swinger in swingers:
            swinger.start()
        try:
            yield self
        finally:
            stop.set()
            for swinger in swingers:
                swinger.join(60)

    def _swing(self, number: int, stop: threading.Event) -> None:
        with Client(self.url, retry=Retry(attempts=1)) as client:
            while not stop.is_set():
                number = (number + 1) % len(self.images)
                try:
                    prediction = client.predict(self.images[number])
                except ServiceError as error:
                    self.failures.append(str(error)[:300] if error.status else repr(error))
                    continue
                self.answers.append({**prediction.raw, "image": number, "received": time.time()})

    def wait_for(self, more: int) -> None:
        """Until `more` answers have come."""
        target = len(self.answers) + more
        wait_until(lambda: len(self.answers) >= target, what=f"{more} more answers; failures: {self.failures[:3]}")


def logged_ids(context: Context) -> list[str]:
    with transaction(context.engine) as connection:
        return [str(i) for i in connection.execute(select(predictions.c.id)).scalars()]


def wait_logged(context: Context, hammer: Hammer, killed: Sequence[float] = ()) -> None:
    """Every answer is in the prediction log, once; those of the last 50 ms before a kill need not be."""
    assert len({a["id"] for a in hammer.answers}) == len(hammer.answers)
    owed = {a["id"] for a in hammer.answers if not any(k - 0.05 <= a["received"] <= k + 0.05 for k in killed)}
    wait_until(lambda: owed <= set(logged_ids(context)), what="every answer in the log")


def replica_rows(context: Context) -> list[dict[str, Any]]:
    with transaction(context.engine) as connection:
        return [dict(row) for row in connection.execute(select(replicas)).mappings()]


def wait_replicas(context: Context, condition: Callable[[dict[str, Any]], bool], count: int = 2) -> None:
    def met() -> bool:
        return sum(condition(row) for row in replica_rows(context)) >= count

    wait_until(met, what=f"{count} replicas in the wanted state; they are {replica_rows(context)}")
