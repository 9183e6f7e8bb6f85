"""Logging: as text or as JSON lines, and an access log that is written by a thread so that no request waits for it.

No line contains an image, a key or a query string.
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
_EXTRA_FIELDS: Final = "fields"
_WAITING: Final = 20_000
_PAUSE: Final = 0.2

access_logger: Final = logging.getLogger("serving.access_log")


def configure(format_: Format) -> None:
    """Configure this process's logging, uvicorn's loggers included."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if format_ == "json" else logging.Formatter(TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    if format_ == "json":
        for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = [], True


class JsonFormatter(logging.Formatter):
    """One line of JSON: time (UTC), level, logger, process, message, exception, and the fields of `with_fields`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
            **getattr(record, _EXTRA_FIELDS, {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # Hostile paths may hold lone surrogates, which JSON cannot encode.
        clean = {k: v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for k, v in line.items()}
        return orjson.dumps(clean, default=str).decode()


def with_fields(**fields: object) -> dict[str, dict[str, object]]:
    """The argument `extra` of a log call: members of the JSON line."""
    return {_EXTRA_FIELDS: fields}


class AccessLog(threading.Thread):
    """Writes a line for each failed request, and for a share of the successful ones.

    A request appends to a queue in memory. Lines that arrive while the queue is full are counted and dropped.

    Args:
        share: of responses below 400 that are logged; 0 turns the access log off.
    """

    def __init__(self, share: float) -> None:
        super().__init__(name="access log", daemon=True)
        self._share = share
        self._queue: deque[tuple[float, str, dict[str, object]]] = deque()
        self._dropped = 0
        self._stopping = threading.Event()

    def record(self, status: int, seconds: float, **fields: object) -> None:
        if not self._share or (status < 400 and self._share < 1 and random.random() >= self._share):  # noqa: S311
            return
        if len(self._queue) >= _WAITING:
            self._dropped += 1
            return
        fields |= {"status": status, "milliseconds": round(seconds * 1000, 3)}
        message = f"{fields['method']} {fields['route']} {status} in {fields['milliseconds']} ms"
        self._queue.append((time.time(), message, fields))

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
            at, message, fields = self._queue.popleft()
            log_record = access_logger.makeRecord(
                access_logger.name, logging.INFO, "", 0, message, (), None, extra=with_fields(**fields)
            )
            log_record.created = at
            access_logger.handle(log_record)
        dropped, self._dropped = self._dropped, 0
        if dropped:
            access_logger.warning("%d lines were dropped: the access log's queue was full", dropped)
