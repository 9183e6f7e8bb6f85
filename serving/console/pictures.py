"""Pictures in the console: small JPEGs, made in the sandbox; the bytes that somebody uploaded never reach a browser."""

from collections.abc import Callable
from typing import Final

from fastapi import Response
from fastapi.responses import RedirectResponse

from ml.errors import NotFoundError
from ml.imaging import thumbnails
from serving.dependencies import Dependencies

_SECONDS: Final = 40.0
_PLACEHOLDER: Final = "/console/static/no-picture.svg"
_CACHE_HEADERS: Final = {"cache-control": "private, max-age=3600"}

Place = tuple[str, int, int | None]
"""Where an image is in the store bucket: object, offset, and size in bytes, None for all of the object."""


async def respond(dependencies: Dependencies, find: Callable[[], Place | None]) -> Response:
    """A small JPEG of an image; a redirection to a placeholder where it is gone, too large or cannot be decoded.

    Args:
        find: returns the image's place, or None; called on a thread of the pictures' pool.
    """
    thumbnail = await dependencies.pictures.run_within(_SECONDS, _thumbnail, dependencies, find)
    if thumbnail is None:
        return RedirectResponse(_PLACEHOLDER, 303)  # not cached: the image may be there at the next look
    return Response(thumbnail, media_type="image/jpeg", headers=_CACHE_HEADERS)


def _thumbnail(dependencies: Dependencies, find: Callable[[], Place | None]) -> bytes | None:
    settings, store = dependencies.settings, dependencies.store
    if (place := find()) is None:
        return None
    key, offset, size = place
    try:
        if (store.info(key).size if size is None else size) > settings.max_image_bytes:
            return None
        data = store.get(key) if size is None else store.get(key, offset, size)
    except NotFoundError:
        return None
    return thumbnails.make(data, settings.max_image_bytes, settings.max_image_pixels)
