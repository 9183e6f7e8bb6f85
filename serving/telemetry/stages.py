"""The stages of one request as they are timed, for whoever traces; by default nobody does, and nothing is noted."""

from typing import Final

from starlette.types import Scope

SCOPE_KEY: Final = "evergreen.stages"

Stages = list[tuple[str, float, float]]
"""Name, begin and end of each, by `time.perf_counter`."""


def of(scope: Scope) -> Stages | None:
    """Where this request's stages are noted; None where nobody traces it."""
    found: Stages | None = scope.get(SCOPE_KEY)
    return found
