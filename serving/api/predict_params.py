"""Parameters of a prediction request beside its image, parsed by hand: FastAPI's parsing costs a third of the time.

Checks and problems are those of the other routes; `PARAMETERS` describes them in OpenAPI.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request

from ml.errors import InvalidInputError

DEFAULT_TOP: Final = 5
_MAX_TOP: Final = 1000
_CLIENT_KEY: Final = re.compile(r"[\x20-\x7e]{0,200}")

PARAMETERS: Final[list[dict[str, Any]]] = [
    {
        "name": "top",
        "in": "query",
        "required": False,
        "description": "How many labels to return.",
        "schema": {"type": "integer", "minimum": 1, "maximum": _MAX_TOP, "default": DEFAULT_TOP},
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
    """`client_key` is the caller's id for the image; `logged` is false for a probe."""

    top: int
    client_key: str | None
    logged: bool


def parse_params(request: Request) -> PredictParams:
    """Raises InvalidInputError (422, `invalid`) for an invalid parameter."""
    headers = request.headers
    return PredictParams(
        _parse_top(request) if request.scope["query_string"] else DEFAULT_TOP,
        _parse_client_key(headers.get("x-client-key")),
        headers.get("x-evergreen-probe") != "1",
    )


def _parse_top(request: Request) -> int:
    value = request.query_params.get("top", str(DEFAULT_TOP))
    if not re.fullmatch(r"0*[0-9]{1,4}", value, re.ASCII) or not 1 <= int(value) <= _MAX_TOP:
        raise InvalidInputError(f"`query.top` must be a whole number from 1 to {_MAX_TOP} (received {value[:50]!r})")
    return int(value)


def _parse_client_key(value: str | None) -> str | None:
    if value and not _CLIENT_KEY.fullmatch(value):
        raise InvalidInputError("`header.x-client-key` must be at most 200 printable ASCII characters")
    return value or None
