"""A registry without MLflow: one JSON file, so that processes that get killed can share it."""

import fcntl
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ml.context import Context
from tests.doubles import registry as doubles
from tests.doubles.registry import MemoryRegistry, new_state


class FileRegistry(MemoryRegistry):
    """A registry that every process sees which knows its file.

    Attributes:
        kill_after: the alias after whose move this process kills itself.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self.kill_after: str | None = None

    def set_alias(self, name: str, version: int | None) -> None:
        super().set_alias(name, version)
        if name == self.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    @contextmanager
    def _state(self) -> Iterator[dict[str, Any]]:
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = json.loads(self._path.read_bytes()) if self._path.exists() else new_state()
            yield state
            self._path.write_text(json.dumps(state))


def install(ctx: Context, path: Path) -> FileRegistry:
    """Make the context use a file registry in MLflow's place."""
    registry = FileRegistry(path)
    doubles.install(ctx, registry)
    return registry
