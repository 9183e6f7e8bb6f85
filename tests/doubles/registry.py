"""A model registry in memory."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ml.context import Context
from ml.errors import NotFoundError
from ml.models import bundle
from ml.models.bundle import BundleInfo
from ml.models.recorded_registry import RecordedRegistry
from ml.models.registry import BUNDLE_FOLDER, DIGEST_TAG, BundleLocation, RegisteredVersion, RestorableRegistry


def new_state() -> dict[str, Any]:
    """An empty registry, as JSON can hold it; `last` is the highest version number that was ever used."""
    return {"versions": {}, "aliases": {}, "last": 0}


class MemoryRegistry:
    """One model's versions; behaves as `MLflowRegistry` does (tests/contracts/registry.py)."""

    def __init__(self) -> None:
        self._memory = new_state()

    def add(self, version: int, prefix: str, digest: str | None, run_id: str = "", **tags: str) -> None:
        """Put in a version of the test's choice; without a digest it has no bundle."""
        with self._state() as state:
            all_tags = tags | ({} if digest is None else {DIGEST_TAG: digest})
            state["versions"][str(version)] = {"prefix": prefix, "run_id": run_id, "tags": all_tags}
            state["last"] = max(state["last"], version)

    def remove(self, version: int) -> None:
        """Delete a version with its aliases, as a person can in MLflow."""
        with self._state() as state:
            del state["versions"][str(version)]
            state["aliases"] = {name: v for name, v in state["aliases"].items() if v != version}

    def clear(self) -> None:
        """A new registered model, whose numbers begin at 1, as after a person renamed the other."""
        with self._state() as state:
            state.update(new_state())

    def alias(self, name: str) -> int | None:
        return self.aliases().get(name)

    def aliases(self) -> dict[str, int]:
        with self._state() as state:
            return dict(state["aliases"])

    def set_alias(self, name: str, version: int | None) -> None:
        with self._state() as state:
            if version is not None:
                _find(state, version)
                state["aliases"][name] = version
            elif state["last"]:
                state["aliases"].pop(name, None)
            else:
                raise NotFoundError("the registry has no model yet")

    def tags(self, version: int) -> dict[str, str]:
        with self._state() as state:
            return dict(_find(state, version)["tags"])

    def tag(self, version: int, tags: Mapping[str, object]) -> None:
        with self._state() as state:
            for name, value in tags.items():
                _find(state, version)["tags"][name] = str(value)

    def bundle(self, version: int) -> BundleLocation:
        with self._state() as state:
            row = _find(state, version)
        if DIGEST_TAG not in row["tags"]:
            raise NotFoundError(f"version {version} has no bundle")
        return BundleLocation(row["prefix"], row["tags"][DIGEST_TAG])

    def register(
        self, run_id: str, folder: Path, info: BundleInfo, tags: Mapping[str, str], description: str = ""
    ) -> int:
        """As `Registry.register`, but the bundle's files are stored nowhere."""
        with self._state() as state:
            existing = [int(number) for number, row in state["versions"].items() if row["run_id"] == run_id]
            version: int = state["last"] + 1
        if existing:
            return max(existing)
        digest = bundle.digest((folder / bundle.INFO).read_bytes())
        all_tags = {"dataset_version": info.dataset_version, **tags}
        self.add(version, f"{run_id}/artifacts/model/data/{BUNDLE_FOLDER}", digest, run_id, **all_tags)
        return version

    def restore(self, location: BundleLocation, run_id: str, tags: Mapping[str, str]) -> int:
        with self._state() as state:
            version: int = state["last"] + 1
        self.add(version, location.prefix, location.digest, run_id, **tags)
        return version

    def find(self, **tags: str) -> list[RegisteredVersion]:
        with self._state() as state:
            rows = sorted(((int(number), row) for number, row in state["versions"].items()), reverse=True)
        versions = [RegisteredVersion(number, row["run_id"], dict(row["tags"])) for number, row in rows]
        return [version for version in versions if tags.items() <= version.tags.items()]

    def version_url(self, version: int) -> str:
        return f"http://registry/versions/{version}"

    @contextmanager
    def _state(self) -> Iterator[dict[str, Any]]:
        """The registry's content, to read and to change."""
        yield self._memory


def _find(state: dict[str, Any], version: int) -> dict[str, Any]:
    try:
        row: dict[str, Any] = state["versions"][str(version)]
    except KeyError:
        raise NotFoundError(f"the registry knows no version {version}") from None
    return row


def install(ctx: Context, registry: RestorableRegistry) -> None:
    """Make the context use this registry in MLflow's place."""
    vars(ctx)["registry"] = RecordedRegistry(ctx.engine, registry)
