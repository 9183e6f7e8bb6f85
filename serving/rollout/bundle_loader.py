"""From a deployment's row to a model that may answer: fetched once a host, verified, warmed, probed.

`<home>/bundles/<digest>/` holds bundles, `<home>/bundles/last-good.json` names the one that served
last, for a start without database or bucket.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from ml.errors import EvergreenError, IntegrityError
from ml.models import bundle, variants
from ml.models.bundle import Wish
from ml.models.model import Model
from ml.storage.object_store import ObjectStore

KEPT_BUNDLES: Final = 4
"""The live one, the previous one for a quick way back, and two more."""
_LAST_GOOD: Final = "last-good.json"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class DesiredDeployment(BaseModel):
    """A deployment that a replica is to run."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    deployment_id: int
    model_version: int
    bundle_prefix: str
    bundle_digest: str
    since: datetime
    strategy: str = "direct"
    share: float = 0.0

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """From a row of table `deployments`."""
        return cls.model_validate({**row, "deployment_id": row["id"], "since": row["created_at"]})


class BundleLoader:
    """Loads bundles on this host; safe in many processes at once."""

    def __init__(
        self, folder: Path, store: ObjectStore, tolerance: float, variant: Wish = "auto", runtime: str = "auto"
    ) -> None:
        self._folder, self._store, self._tolerance = folder, store, tolerance
        self._variant, self._runtime = variant, runtime

    def load(self, order: DesiredDeployment) -> Model:
        """The order's model, checked in every way there is.

        Raises:
            IntegrityError: bytes, shapes, labels or probes are not what they should be.
            NotFoundError: the bundle is not in the bucket.
            UnavailableError: the bucket does not answer; try again.
        """
        if not _DIGEST.fullmatch(order.bundle_digest):
            raise IntegrityError(f"`{order.bundle_digest[:80]}` is no SHA-256 in hex")
        folder = self._folder / order.bundle_digest
        with self._host_lock():
            bundle.fetch(self._store, order.bundle_prefix, order.bundle_digest, folder)
            os.utime(folder)
            self._prune()
        try:
            loaded = variants.load_proven(folder, self._tolerance, 1, self._variant, self._runtime)
            _check_labels(loaded)
            info = loaded.info
            loaded.predict(np.zeros((1, info.image_size, info.image_size, info.channels), np.uint8))  # warm up
        except EvergreenError:
            raise
        except Exception as error:  # onnxruntime and numpy raise types of their own on a bundle that does not fit
            raise IntegrityError(f"the model cannot run: {type(error).__name__}: {error}") from error
        return loaded

    def remember(self, order: DesiredDeployment) -> None:
        """Note that this one serves well; the file appears whole or not at all."""
        temporary = self._folder / f".{_LAST_GOOD}.{os.getpid()}"
        temporary.write_text(order.model_dump_json(indent=1))
        temporary.replace(self._folder / _LAST_GOOD)

    def last_good(self) -> DesiredDeployment | None:
        """What served last on this host."""
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
        """Forget the bundles not used for longest. One that is being loaded was used just now."""
        folders = [p for p in self._folder.iterdir() if p.is_dir() and _DIGEST.fullmatch(p.name)]
        for folder in sorted(folders, key=lambda p: p.stat().st_mtime, reverse=True)[KEPT_BUNDLES:]:
            shutil.rmtree(folder, ignore_errors=True)


def _check_labels(loaded: Model) -> None:
    labels = loaded.info.labels
    if len(set(labels)) != len(labels):
        raise IntegrityError(f"the bundle's labels are not distinct: {labels[:20]}")
    for label in labels:
        if not label.strip() or len(label) > 200 or not label.isprintable():
            raise IntegrityError(f"the bundle's label {label[:200]!r} is empty, too long or not printable")
