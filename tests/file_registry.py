"""A registry without MLflow: one JSON file, so that processes that get killed can share it."""

import fcntl
import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ml.context import Context
from ml.errors import NotFoundError
from ml.models.registry_rest import BundleLocation


class FileRegistry:
    """The part of `ml.models.registry.Registry` that gate and release use.

    Attributes:
        kill_after: the alias after whose move this process kills itself.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.kill_after: str | None = None

    def add(self, version: int, prefix: str, digest: str, **tags: str) -> None:
        with self._state() as state:
            state["versions"][str(version)] = {"prefix": prefix, "digest": digest, "tags": tags}

    def remove(self, version: int) -> None:
        """As MLflow does, with the version's aliases."""
        with self._state() as state:
            del state["versions"][str(version)]
            state["aliases"] = {name: v for name, v in state["aliases"].items() if v != version}

    def alias(self, name: str) -> int | None:
        return self.aliases().get(name)

    def aliases(self) -> dict[str, int]:
        with self._state() as state:
            return dict(state["aliases"])

    def set_alias(self, name: str, version: int | None) -> None:
        with self._state() as state:
            if version is None:
                state["aliases"].pop(name, None)
            else:
                self._version(state, version)
                state["aliases"][name] = version
        if name == self.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    def tag(self, version: int, tags: Mapping[str, object]) -> None:
        with self._state() as state:
            self._version(state, version)["tags"] |= {k: str(v) for k, v in tags.items()}

    def tags(self, version: int) -> dict[str, str]:
        with self._state() as state:
            return dict(self._version(state, version)["tags"])

    def bundle(self, version: int) -> BundleLocation:
        with self._state() as state:
            found = self._version(state, version)
            return BundleLocation(found["prefix"], found["digest"])

    @staticmethod
    def _version(state: dict[str, Any], version: int) -> dict[str, Any]:
        try:
            found: dict[str, Any] = state["versions"][str(version)]
        except KeyError:
            raise NotFoundError(f"the registry knows no version {version}") from None
        return found

    @contextmanager
    def _state(self) -> Iterator[dict[str, Any]]:
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = json.loads(self._path.read_bytes()) if self._path.exists() else {"versions": {}, "aliases": {}}
            yield state
            self._path.write_text(json.dumps(state))


def install(ctx: Context, path: Path) -> FileRegistry:
    """Make the context use a file registry, as if it had connected to one."""
    registry = FileRegistry(path)
    vars(ctx)["registry"] = registry
    return registry
