"""Many images in one request: each goes through the same line and the same log as one that is sent alone."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlsplit

from ml.errors import ImageRejectedError, NotFoundError, UnavailableError
from serving.dependencies import Dependencies
from serving.errors import ProblemError
from serving.inference.predictor import PredictionRequest

log = logging.getLogger(__name__)

AT_ONCE: Final = 2
"""Images of one batch in the line: one is computed, the next is there when it ends; others get their turn."""
_PATIENCE: Final = 30.0
_FETCH_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Item:
    """An image by its bytes, or by its URL where `data` is None."""

    name: str
    data: bytes | None


async def answers(dependencies: Dependencies, items: Sequence[Item], common: PredictionRequest) -> list[dict[str, Any]]:
    """`serving.api.schemas.BatchItem` of each, in order.

    Args:
        common: what all have in common; its body is not looked at.
    """
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, item: Item) -> dict[str, Any]:
        async with turn:
            try:
                data = item.data if item.data is not None else await _fetched(dependencies, item.name)
                key = f"{common.client_key}/{number}" if common.client_key else None
                question = replace(common, body=data, client_key=key, started=time.perf_counter())
                found = await dependencies.inference.run_patiently(dependencies.predictor.predict, question, _PATIENCE)
            except Exception as error:  # noqa: BLE001 - an image's error is its own
                return {"name": item.name, "problem": _problem(error)}
            return {"name": item.name, "answer": found}

    return await asyncio.gather(*(one(number, item) for number, item in enumerate(items)))


async def _fetched(dependencies: Dependencies, url: str) -> bytes:
    address = urlsplit(url)
    source, key = dependencies.sources.get(address.netloc), address.path.removeprefix("/")
    if address.scheme != "s3" or source is None or not key:
        raise ProblemError(
            422, "foreign_url", f"only s3://BUCKET/KEY of the buckets {', '.join(sorted(dependencies.sources))} is read"
        )
    # One byte more than is accepted, so that what is too large is seen as such.
    most = dependencies.settings.max_image_bytes + 1
    return await dependencies.storage.run_within(_FETCH_SECONDS, source.get, key, 0, most)


def _problem(error: Exception) -> dict[str, Any]:
    """The same codes and words as of a request with this image alone."""
    match error:
        case ProblemError():
            status, code, detail = error.status, error.code, str(error)
        case ImageRejectedError():
            status, code, detail = 422, error.code, str(error)
        case NotFoundError():
            status, code, detail = 404, "not_found", "there is no such object"
        case UnavailableError():
            status, code, detail = 503, "unavailable", "a part behind the service does not answer; try again"
        case _:
            log.error("an image of a batch failed", exc_info=error)
            status, code, detail = 500, "internal", "an error of the service itself"
    return {"status": status, "code": code, "detail": detail}
