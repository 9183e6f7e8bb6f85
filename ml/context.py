"""What a stage works with: settings, the catalog, the buckets, the registry. Built once a process."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from ml.catalog import engine as catalog_engine
from ml.settings import Settings
from ml.storage import object_store
from ml.storage.object_store import ObjectStore

if TYPE_CHECKING:
    from ml.models.registry import Registry


@dataclass(frozen=True)
class Context:
    """The dependencies of every stage function; tests pass their own.

    Attributes:
        labels: the bucket people upload drops to; we only move its markers.
        store: our bucket: segments, manifests, reports, quarantine, prediction images.
        artifacts: MLflow's bucket, read only, for bundles.
    """

    settings: Settings
    engine: Engine
    labels: ObjectStore
    store: ObjectStore
    artifacts: ObjectStore

    @cached_property
    def registry(self) -> "Registry":
        """MLflow's."""
        from ml.models.registry import Registry

        return Registry(self.settings)


def connect(settings: Settings) -> Context:
    """The composition function of every process that runs stages. Opens nothing yet."""
    return Context(
        settings=settings,
        engine=catalog_engine.connect(settings),
        labels=object_store.connect(settings, settings.labels_bucket),
        store=object_store.connect(settings, settings.store_bucket),
        artifacts=object_store.connect(settings, settings.artifacts_bucket),
    )
