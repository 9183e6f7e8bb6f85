"""The log: for a person or as JSON a line, and a line for each request that no request waits for.

No line holds any of an image, a key, or a query.
"""

import logging
import random
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import Any, Final, Literal

import orjson

Format = Literal["text", "json"]

TEXT: Final = "%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s"
_OURS: Final = "fields"
_WAITING: Final = 20_000
_PAUSE: Final = 0.2

access: Final = logging.getLogger("serving.access_log")


def set_up(style: Format) -> None:
    """How this process logs, uvicorn's own lines included."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if style == "json" else logging.Formatter(TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    if style == "json":
        for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = [], True


class JsonFormatter(logging.Formatter):
    """A line of JSON: time (UTC), level, logger, process, message; what went wrong; and fields of its own."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
            **getattr(record, _OURS, {}),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        # Lone surrogates, which JSON cannot hold, come from hostile paths.
        clean = {k: v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for k, v in told.items()}
        return orjson.dumps(clean, default=str).decode()


def with_fields(**fields: object) -> dict[str, dict[str, object]]:
    """`extra` of a log call: members of the JSON line."""
    return {_OURS: fields}


class AccessLog(threading.Thread):
    """Writes a line for each request, or for a share of those that went well; all others are always written.

    A request appends to a queue in memory. What comes while the queue is full is counted and let go.

    Args:
        share: of answers below 400; 0 is no access log at all.
    """

    def __init__(self, share: float) -> None:
        super().__init__(name="access log", daemon=True)
        self._share = share
        self._queue: deque[tuple[float, str, dict[str, object]]] = deque()
        self._lost = 0
        self._stopping = threading.Event()

    def note(self, status: int, seconds: float, **fields: object) -> None:
        if not self._share or (status < 400 and self._share < 1 and random.random() >= self._share):  # noqa: S311
            return
        if len(self._queue) >= _WAITING:
            self._lost += 1
            return
        fields |= {"status": status, "milliseconds": round(seconds * 1000, 3)}
        words = f"{fields['method']} {fields['route']} {status} in {fields['milliseconds']} ms"
        self._queue.append((time.time(), words, fields))

    def run(self) -> None:
        while not self._stopping.wait(_PAUSE):
            self._write()
        self._write()

    def stop(self, seconds: float) -> None:
        self._stopping.set()
        if self.is_alive():
            self.join(seconds)

    def _write(self) -> None:
        while self._queue:
            at, words, fields = self._queue.popleft()
            record = access.makeRecord(access.name, logging.INFO, "", 0, words, (), None, extra=with_fields(**fields))
            record.created = at
            access.handle(record)
        lost, self._lost = self._lost, 0
        if lost:
            access.warning("%d lines were let go: more came than could be written", lost)
