"""A client of the service: asks at a steady pace, keeps every answer's fate."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx

from infra.demo.pictures import Picture


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

    def __init__(self, url: str, pictures: Sequence[Picture], threads: int = 2, pause: float = 0.03) -> None:
        self.tally = Tally()
        self._url, self._pictures, self._pause = url, pictures, pause
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
        with httpx.Client(base_url=self._url, timeout=30) as http:
            while not self._stop.is_set():
                self._ask(http, self._pictures[position % len(self._pictures)])
                position += len(self._threads)
                self._stop.wait(self._pause)

    def _ask(self, http: httpx.Client, picture: Picture) -> None:
        started = time.perf_counter()
        try:
            answer = http.post("/v1/predict", files={"file": (picture.name, picture.data)})
        except httpx.HTTPError as error:
            with self._lock:
                self.tally.requests += 1
                self.tally.failures.append(repr(error))
            return
        with self._lock:
            self.tally.requests += 1
            if answer.status_code == 200:
                self.tally.latencies.append((time.perf_counter() - started) * 1000)
                self.tally.versions.add(answer.json()["model_version"])
            else:
                self.tally.failures.append(f"{answer.status_code} {answer.text[:200]}")


def ask_each(url: str, pictures: Sequence[Picture]) -> tuple[int, int]:
    """Ask once for each picture; how many answers came, and how many named the right label."""
    answered = right = 0
    with httpx.Client(base_url=url, timeout=30) as http:
        for picture in pictures:
            answer = http.post(
                "/v1/predict", content=picture.data, headers={"content-type": "application/octet-stream"}
            )
            answered += answer.status_code == 200
            right += answer.status_code == 200 and answer.json()["label"] == picture.label
    return answered, right
