"""A load client: sends requests at a steady pace and counts the results."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import serving.client as service
from infra.demo import watch
from infra.demo.pictures import Picture
from ml.settings import Settings

_ONCE = service.Retry(attempts=1)  # retries could hide requests that a reload dropped
_TRIES, _OVERLOADED = 60, "overloaded"


@dataclass
class RequestStats:
    """Results of the requests; latencies in milliseconds, of answered requests.

    `busy` counts how often the service was overloaded; these requests are sent again after its `Retry-After`.
    """

    requests: int = 0
    busy: int = 0
    failures: list[str] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    versions: set[int] = field(default_factory=set)
    right: int = 0

    @property
    def answered(self) -> int:
        return self.requests - len(self.failures)

    def p99(self) -> float | None:
        ordered = sorted(self.latencies)
        return round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 1) if ordered else None


class LoadClient:
    """Sends the pictures in turn from several threads until stopped; a context manager."""

    def __init__(self, settings: Settings, pictures: Sequence[Picture], threads: int = 2, pause: float = 0.03) -> None:
        self.stats = RequestStats()
        self._settings, self._pictures, self._pause = settings, pictures, pause
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(threads)]

    def __enter__(self) -> "LoadClient":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def wait_for(self, version: int) -> None:
        """Until this model version has answered.

        Raises:
            UnavailableError: no progress for too long.
        """
        watch.wait_until(
            lambda: sorted(self.stats.versions), lambda versions: version in versions, f"an answer by version {version}"
        )

    def _run(self, position: int) -> None:
        with _client(self._settings) as http:
            while not self._stop.is_set():
                _send(http, self._pictures[position % len(self._pictures)], self.stats, self._lock)
                position += len(self._threads)
                self._stop.wait(self._pause)


def ask_each(settings: Settings, pictures: Sequence[Picture]) -> RequestStats:
    """Send one request for each picture."""
    stats, lock = RequestStats(), threading.Lock()
    with _client(settings) as http:
        for picture in pictures:
            _send(http, picture, stats, lock)
    return stats


def _client(settings: Settings) -> service.Client:
    key = settings.api_key.get_secret_value() if settings.api_key else None
    return service.Client(settings.service_url, key, retry=_ONCE)


def _send(http: service.Client, picture: Picture, stats: RequestStats, lock: threading.Lock) -> None:
    """Send a request, again while the service is overloaded; other errors are not retried."""
    for tries_left in reversed(range(_TRIES)):
        started = time.perf_counter()
        try:
            prediction = http.predict(picture.data)
        except service.ServiceError as error:
            if error.code == _OVERLOADED and tries_left:
                with lock:
                    stats.busy += 1
                time.sleep(error.retry_after or 1)
                continue
            with lock:
                stats.requests += 1
                stats.failures.append(str(error)[:200])
            return
        with lock:
            stats.requests += 1
            stats.latencies.append((time.perf_counter() - started) * 1000)
            stats.versions.add(prediction.model_version)
            stats.right += prediction.label == picture.label
        return
