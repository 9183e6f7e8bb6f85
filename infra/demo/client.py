"""A client of the service: asks at a steady pace, keeps every answer's fate."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import serving.client as service
from infra.demo import watch
from infra.demo.pictures import Picture
from ml.settings import Settings

_ONCE = service.Retry(attempts=1)  # a try that a client makes again by itself could hide what a reload dropped
_TRIES, _OVERLOADED = 60, "overloaded"


@dataclass
class RequestStats:
    """What became of the requests; latencies in milliseconds, of answered requests.

    `busy` counts how often the service said that it had too much to do; it is asked again when it wants to be.
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
    """Sends the pictures in turn from a few threads until stopped; use as a context manager."""

    def __init__(self, settings: Settings, pictures: Sequence[Picture], threads: int = 2, pause: float = 0.03) -> None:
        self.tally = RequestStats()
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
            UnavailableError: for long no answer changed anything.
        """
        watch.until(
            lambda: sorted(self.tally.versions), lambda seen: version in seen, f"an answer by version {version}"
        )

    def _run(self, position: int) -> None:
        with _client(self._settings) as http:
            while not self._stop.is_set():
                _ask(http, self._pictures[position % len(self._pictures)], self.tally, self._lock)
                position += len(self._threads)
                self._stop.wait(self._pause)


def ask_each(settings: Settings, pictures: Sequence[Picture]) -> RequestStats:
    """Ask once for each picture."""
    tally, lock = RequestStats(), threading.Lock()
    with _client(settings) as http:
        for picture in pictures:
            _ask(http, picture, tally, lock)
    return tally


def _client(settings: Settings) -> service.Client:
    key = settings.api_key.get_secret_value() if settings.api_key else None
    return service.Client(settings.service_url, key, retry=_ONCE)


def _ask(http: service.Client, picture: Picture, tally: RequestStats, lock: threading.Lock) -> None:
    """Ask until the service has room for the request; one that fails for another reason is not asked again."""
    for tries_left in reversed(range(_TRIES)):
        started = time.perf_counter()
        try:
            said = http.predict(picture.data)
        except service.ServiceError as error:
            if error.code == _OVERLOADED and tries_left:
                with lock:
                    tally.busy += 1
                time.sleep(error.retry_after or 1)
                continue
            with lock:
                tally.requests += 1
                tally.failures.append(str(error)[:200])
            return
        with lock:
            tally.requests += 1
            tally.latencies.append((time.perf_counter() - started) * 1000)
            tally.versions.add(said.model_version)
            tally.right += said.label == picture.label
        return
