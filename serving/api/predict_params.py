"""What a request asks beside its image: read by hand, as FastAPI's own reading costs a third of the route's time.

The same checks and the same problems as elsewhere; `PARAMETERS` tells OpenAPI.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request

from ml.errors import InvalidInputError

TOP: Final = 5
_MOST: Final = 1000
_KEY: Final = re.compile(r"[\x20-\x7e]{0,200}")

PARAMETERS: Final[list[dict[str, Any]]] = [
    {
        "name": "top",
        "in": "query",
        "required": False,
        "description": "How many labels to return.",
        "schema": {"type": "integer", "minimum": 1, "maximum": _MOST, "default": TOP},
    },
    {
        "name": "x-client-key",
        "in": "header",
        "required": False,
        "description": "Your own id for this image; logged.",
        "schema": {"type": "string", "maxLength": 200, "pattern": r"^[\x20-\x7e]*$"},
    },
    {
        "name": "x-evergreen-probe",
        "in": "header",
        "required": False,
        "description": "`1`: a check; answered, not logged.",
        "schema": {"type": "string"},
    },
]


@dataclass(frozen=True)
class PredictParams:
    """`client_key` is the caller's own id, `logged` is false for a check."""

    top: int
    client_key: str | None
    logged: bool


def asked(request: Request) -> PredictParams:
    """Raises InvalidInputError (422, `invalid`) where something does not fit."""
    headers = request.headers
    return PredictParams(
        _top(request) if request.scope["query_string"] else TOP,
        _key(headers.get("x-client-key")),
        headers.get("x-evergreen-probe") != "1",
    )


def _top(request: Request) -> int:
    given = request.query_params.get("top", str(TOP))
    if not re.fullmatch(r"0*[0-9]{1,4}", given, re.ASCII) or not 1 <= int(given) <= _MOST:
        raise InvalidInputError(f"`query.top` must be a whole number from 1 to {_MOST} (received {given[:50]!r})")
    return int(given)


def _key(given: str | None) -> str | None:
    if given and not _KEY.fullmatch(given):
        raise InvalidInputError("`header.x-client-key` must be at most 200 printable ASCII characters")
    return given or None
