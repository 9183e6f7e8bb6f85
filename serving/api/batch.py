"""Many images in one request; each passes through the same queue and log as a single image."""

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

MAX_CONCURRENT: Final = 2
"""Images of one batch in the queue at a time: one is computed while the next waits, so other requests get a turn."""
_QUEUE_SECONDS: Final = 30.0
_FETCH_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Item:
    """An image by its bytes, or by its URL where `data` is None."""

    name: str
    data: bytes | None


async def predict_all(
    dependencies: Dependencies, items: Sequence[Item], common: PredictionRequest
) -> list[dict[str, Any]]:
    """Predict each image; returns one `serving.api.schemas.BatchItem` per image, in order.

    Args:
        common: parameters that all images share; its body is ignored.
    """
    slots = asyncio.Semaphore(MAX_CONCURRENT)

    async def predict_one(number: int, item: Item) -> dict[str, Any]:
        async with slots:
            try:
                data = item.data if item.data is not None else await _fetch(dependencies, item.name)
                key = f"{common.client_key}/{number}" if common.client_key else None

                request = replace(common, body=data, client_key=key, started=time.perf_counter())
                answer = await dependencies.inference.run_with_retries(
                    dependencies.predictor.predict, request, _QUEUE_SECONDS
                )
            except Exception as error:  # noqa: BLE001 - one image's error must not fail the others
                return {"name": item.name, "problem": _problem(error)}
            return {"name": item.name, "answer": answer}

    return await asyncio.gather(*(predict_one(number, item) for number, item in enumerate(items)))


async def _fetch(dependencies: Dependencies, url: str) -> bytes:
    address = urlsplit(url)
    source, key = dependencies.sources.get(address.netloc), address.path.removeprefix("/")
    if address.scheme != "s3" or source is None or not key:
        raise ProblemError(
            422, "foreign_url", f"only s3://BUCKET/KEY of the buckets {', '.join(sorted(dependencies.sources))} is read"
        )
    # One byte more than is accepted, so that an image that is too large is recognised.
    read_bytes = dependencies.settings.max_image_bytes + 1
    return await dependencies.storage.run_within(_FETCH_SECONDS, source.get, key, 0, read_bytes)


def _problem(error: Exception) -> dict[str, Any]:
    """The status, code and detail that `/v1/predict` would return for this image."""
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
