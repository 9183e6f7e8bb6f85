"""Timings of the stages of one request, recorded only while the request is traced."""

from typing import Final

from starlette.types import Scope

SCOPE_KEY: Final = "evergreen.stages"

Stages = list[tuple[str, float, float]]
"""Name, start and end of each, by `time.perf_counter`."""


def from_scope(scope: Scope) -> Stages | None:
    """The list to which this request's stages are appended; None while it is not traced."""
    stages: Stages | None = scope.get(SCOPE_KEY)
    return stages
