"""GET /console/files/…: reports from the store's bucket, and no other object of it."""

import re
from collections.abc import AsyncIterator
from typing import Final

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from ml.storage.object_store import ObjectInfo
from serving.api.middleware import FILES_PREFIX
from serving.api.route_classes import requires_role
from serving.auth.access import BASIC
from serving.dependencies import Dependencies, Injected
from serving.errors import ProblemError

router = APIRouter(include_in_schema=False, route_class=requires_role("operate", BASIC))

_HTML: Final = "text/html; charset=utf-8"
_MEDIA_TYPES: Final = (
    (re.compile(r"data-docs/(drops|datasets|predictions)/[\w-]+\.html", re.ASCII), _HTML),
    (re.compile(r"decisions/[\w-]+/report\.html", re.ASCII), _HTML),
    (re.compile(r"drops/[\w-]+/report\.json", re.ASCII), "application/json"),
)
_CHUNK_BYTES: Final = 1_000_000  # bytes in memory at once
_SECONDS: Final = 10.0


@router.get(FILES_PREFIX + "{key:path}")
async def stored_file(key: str, dependencies: Injected) -> StreamingResponse:
    """A report as stored; 404 for every other key, whether it exists or not."""
    media_type = next((media_type for pattern, media_type in _MEDIA_TYPES if pattern.fullmatch(key)), None)
    if media_type is None:
        raise ProblemError(404, "not_found", "no report has this address")
    info = await dependencies.storage.run_within(_SECONDS, dependencies.store.info, key)
    headers = {"content-length": str(info.size)}
    return StreamingResponse(_chunks(dependencies, info), media_type=media_type, headers=headers)


async def _chunks(dependencies: Dependencies, info: ObjectInfo) -> AsyncIterator[bytes]:
    for start in range(0, info.size, _CHUNK_BYTES):
        size = min(_CHUNK_BYTES, info.size - start)
        yield await dependencies.storage.run_within(_SECONDS, dependencies.store.get, info.key, start, size)
