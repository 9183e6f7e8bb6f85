"""GET /console/files/…: reports out of the store's bucket, and nothing else that lies there."""

import re
from collections.abc import AsyncIterator
from typing import Final

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from ml.storage.object_store import ObjectInfo
from serving.api.middleware import FILES_PREFIX
from serving.api.route_classes import needs
from serving.auth.access import BASIC
from serving.dependencies import Dependencies, Injected
from serving.errors import ProblemError

router = APIRouter(include_in_schema=False, route_class=needs("operate", BASIC))

_HTML: Final = "text/html; charset=utf-8"
_KINDS: Final = (
    (re.compile(r"data-docs/(drops|datasets|predictions)/[\w-]+\.html", re.ASCII), _HTML),
    (re.compile(r"decisions/[\w-]+/report\.html", re.ASCII), _HTML),
    (re.compile(r"drops/[\w-]+/report\.json", re.ASCII), "application/json"),
)
_PIECE: Final = 1_000_000  # bytes held at once
_SECONDS: Final = 10.0


@router.get(FILES_PREFIX + "{key:path}")
async def stored_file(key: str, dependencies: Injected) -> StreamingResponse:
    """A report as the store has it; 404 for every other key, whether it is there or not."""
    kind = next((kind for pattern, kind in _KINDS if pattern.fullmatch(key)), None)
    if kind is None:
        raise ProblemError(404, "not_found", "no report has this address")
    info = await dependencies.storage.run_within(_SECONDS, dependencies.store.info, key)
    headers = {"content-length": str(info.size)}
    return StreamingResponse(_pieces(dependencies, info), media_type=kind, headers=headers)


async def _pieces(dependencies: Dependencies, info: ObjectInfo) -> AsyncIterator[bytes]:
    for start in range(0, info.size, _PIECE):
        size = min(_PIECE, info.size - start)
        yield await dependencies.storage.run_within(_SECONDS, dependencies.store.get, info.key, start, size)
