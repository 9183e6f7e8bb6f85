"""A client of the service: asks at a steady pace, keeps every answer's fate."""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from infra.demo.pictures import Picture
from ml.settings import Settings
from serving import client as service

_ONCE = service.Retry(attempts=1)


@dataclass
class Tally:
    """What became of the requests; latencies in milliseconds, of answered requests."""

    requests: int = 0
    failures: list[str] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    versions: set[int] = field(default_factory=set)

    def p99(self) -> float | None:
        ordered = sorted(self.latencies)
        return round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 1) if ordered else None


class Client:
    """Sends the pictures in turn from a few threads until stopped; use as a context manager."""

    def __init__(self, settings: Settings, pictures: Sequence[Picture], threads: int = 2, pause: float = 0.03) -> None:
        self.tally = Tally()
        self._settings, self._pictures, self._pause = settings, pictures, pause
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(threads)]

    def __enter__(self) -> "Client":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self, position: int) -> None:
        with service.Client.of(self._settings, _ONCE) as http:
            while not self._stop.is_set():
                self._ask(http, self._pictures[position % len(self._pictures)])
                position += len(self._threads)
                self._stop.wait(self._pause)

    def _ask(self, http: service.Client, picture: Picture) -> None:
        started = time.perf_counter()
        try:
            said = http.predict(picture.data)
        except service.ServiceError as error:
            with self._lock:
                self.tally.requests += 1
                self.tally.failures.append(str(error)[:200])
            return
        with self._lock:
            self.tally.requests += 1
            self.tally.latencies.append((time.perf_counter() - started) * 1000)
            self.tally.versions.add(said.model_version)


def ask_each(settings: Settings, pictures: Sequence[Picture]) -> tuple[int, int]:
    """Ask once for each picture; how many answers came, and how many named the right label."""
    answered = right = 0
    with service.Client.of(settings, _ONCE) as http:
        for picture in pictures:
            with suppress(service.ServiceError):
                said = http.predict(picture.data)
                answered += 1
                right += said.label == picture.label
    return answered, right
