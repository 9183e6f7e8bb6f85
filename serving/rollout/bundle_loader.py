"""Loads a deployment's model: fetched once per host, verified, warmed up, probed.

`<home>/bundles/<digest>/` holds bundles, `<home>/bundles/last-good.json` names the last one that
served, for a start without database or bucket.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final, Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from ml.catalog.deployments import DeploymentRecord
from ml.errors import EvergreenError, IntegrityError
from ml.models import bundle, variants
from ml.models.bundle import VariantSetting
from ml.models.model import Model
from ml.storage.object_store import ObjectStore

MAX_BUNDLES: Final = 4
"""The live one, the previous one for a quick rollback, and two more."""
_LAST_GOOD: Final = "last-good.json"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class DesiredDeployment(BaseModel):
    """A deployment that a replica should run."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    deployment_id: int
    model_version: int
    bundle_prefix: str
    bundle_digest: str
    since: datetime
    strategy: str = "direct"
    share: float = 0.0

    @classmethod
    def of(cls, record: DeploymentRecord) -> Self:
        """From a row of table `deployments`."""
        return cls(
            deployment_id=record.id,
            model_version=record.model_version,
            bundle_prefix=record.bundle_prefix,
            bundle_digest=record.bundle_digest,
            since=record.created_at,
            strategy=record.strategy,
            share=record.share,
        )


class BundleLoader:
    """Loads bundles on this host; safe to use from several processes at once."""

    def __init__(
        self,
        folder: Path,
        store: ObjectStore,
        tolerance: float,
        variant: VariantSetting = "auto",
        runtime: str = "auto",
    ) -> None:
        self._folder, self._store, self._tolerance = folder, store, tolerance
        self._variant, self._runtime = variant, runtime

    def load(self, deployment: DesiredDeployment) -> Model:
        """The deployment's model, verified, warmed up and probed.

        Raises:
            IntegrityError: bytes, shapes, labels or probes do not match.
            NotFoundError: the bundle is not in the bucket.
            UnavailableError: the bucket does not answer; try again.
        """
        if not _DIGEST.fullmatch(deployment.bundle_digest):
            raise IntegrityError(f"`{deployment.bundle_digest[:80]}` is no SHA-256 in hex")
        folder = self._folder / deployment.bundle_digest
        with self._host_lock():
            bundle.fetch(self._store, deployment.bundle_prefix, deployment.bundle_digest, folder)
            os.utime(folder)
            self._prune()
        try:
            loaded = variants.load_proven(folder, self._tolerance, 1, self._variant, self._runtime)
            _check_labels(loaded)
            info = loaded.info
            loaded.predict(np.zeros((1, info.image_size, info.image_size, info.channels), np.uint8))  # warm up
        except EvergreenError:
            raise
        except Exception as error:  # onnxruntime and numpy raise their own exceptions for an invalid bundle
            raise IntegrityError(f"the model cannot run: {type(error).__name__}: {error}") from error
        return loaded

    def save_last_good(self, deployment: DesiredDeployment) -> None:
        """Record the last good deployment; the file is replaced atomically."""
        temporary = self._folder / f".{_LAST_GOOD}.{os.getpid()}"
        temporary.write_text(deployment.model_dump_json(indent=1))
        temporary.replace(self._folder / _LAST_GOOD)

    def read_last_good(self) -> DesiredDeployment | None:
        """The last good deployment of this host, or None."""
        try:
            return DesiredDeployment.model_validate_json((self._folder / _LAST_GOOD).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise IntegrityError(f"{self._folder / _LAST_GOOD} does not fit its schema: {error}") from error

    @contextmanager
    def _host_lock(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _prune(self) -> None:
        """Delete the least recently used bundles. One that is being loaded was used just now."""
        folders = [p for p in self._folder.iterdir() if p.is_dir() and _DIGEST.fullmatch(p.name)]
        for folder in sorted(folders, key=lambda p: p.stat().st_mtime, reverse=True)[MAX_BUNDLES:]:
            shutil.rmtree(folder, ignore_errors=True)


def _check_labels(loaded: Model) -> None:
    labels = loaded.info.labels
    if len(set(labels)) != len(labels):
        raise IntegrityError(f"the bundle's labels are not distinct: {labels[:20]}")
    for label in labels:
        if not label.strip() or len(label) > 200 or not label.isprintable():
            raise IntegrityError(f"the bundle's label {label[:200]!r} is empty, too long or not printable")
