"""The dependencies of a stage: settings, catalog, buckets and registry. Built once per process."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from ml.catalog import engine as catalog_engine
from ml.settings import Settings
from ml.storage import object_store
from ml.storage.object_store import ObjectStore

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from ml.models.recorded_registry import RecordedRegistry


@dataclass(frozen=True)
class Context:
    """The dependencies of every stage function; tests pass their own.

    Attributes:
        labels: the bucket that drops are uploaded to; only its markers are moved.
        store: bucket of segments, manifests, reports, quarantine and prediction images.
        artifacts: MLflow's artifact bucket, for bundles; only erasures change anything there.
    """

    settings: Settings
    engine: Engine
    labels: ObjectStore
    store: ObjectStore
    artifacts: ObjectStore

    @cached_property
    def registry(self) -> "RecordedRegistry":
        """The model versions, as the catalog records them and MLflow shows them."""
        from ml.models.recorded_registry import RecordedRegistry
        from ml.models.registry import MLflowRegistry

        return RecordedRegistry(self.engine, MLflowRegistry(self.settings))

    @cached_property
    def tracking(self) -> "MlflowClient":
        """The client of MLflow's runs; raises `UnavailableError` when MLflow does not answer."""
        from ml.models.registry import connect_client

        return connect_client(self.settings)


def connect(settings: Settings) -> Context:
    """Build the context from settings. Connections are opened on first use."""
    return Context(
        settings=settings,
        engine=catalog_engine.connect(settings),
        labels=object_store.connect(settings, settings.labels_bucket),
        store=object_store.connect(settings, settings.store_bucket),
        artifacts=object_store.connect(settings, settings.artifacts_bucket),
    )
