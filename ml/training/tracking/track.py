"""What a training run leaves in MLflow: parameters, live metrics, its dataset, files, how it ended."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlflow.exceptions import MlflowException

from ml.context import Context
from ml.datasets import versions
from ml.datasets.versions import DatasetVersion
from ml.errors import EvergreenError
from ml.models.registry import Registry, translated

if TYPE_CHECKING:
    from mlflow.entities import Metric

_LIVE_SECONDS: Final = 2.0
"""Metrics are sent at most this often: a call costs as much as an epoch of a small data set."""
_WATCH_SECONDS: Final = 5.0
_DIGEST: Final = 32
_TAG: Final = 500


class Run:
    """An MLflow run. Every method raises `UnavailableError` when MLflow does not answer."""

    def __init__(self, registry: Registry, run_id: str) -> None:
        self.id = run_id
        self._client = registry.client
        self._waiting: list[Metric] = []
        self._sent = time.monotonic()

    @classmethod
    def begin(cls, registry: Registry, experiment: str, name: str, tags: Mapping[str, str]) -> "Run":
        """A new run, in an experiment that is made if it is not there."""
        with translated(f"a run in experiment `{experiment}`"):
            made = registry.client.create_run(_experiment_id(registry, experiment), run_name=name, tags=dict(tags))
        return cls(registry, str(made.info.run_id))

    @contextmanager
    def ended(self) -> Iterator[None]:
        """The run is finished after the block, failed if it raises, killed if it is interrupted."""
        try:
            yield
            self.flush()
        except BaseException as error:
            with suppress(EvergreenError):  # the block's own error tells more
                self.end("FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        self.end("FINISHED")

    def end(self, status: str) -> None:
        with translated(f"run {self.id}"):
            self._client.set_terminated(self.id, status)

    def inputs(self, ctx: Context, version: DatasetVersion, params: Mapping[str, Any]) -> None:
        """Parameters, and the dataset version as the run's input, with its lineage.

        The source is the manifest: `mlflow.data.get_source(…).load()` fetches it from the bucket.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        source = f"s3://{ctx.settings.store_bucket}/{versions.key(version.id)}"
        manifest = versions.manifest(ctx, version.id)
        counts = {"train": version.train, "validation": version.validation, "holdout": version.holdout}
        changes = {"relabels": len(manifest.relabels), "removals": len(manifest.removals)}
        extent = {"segments": len(manifest.segments), "classes": len(version.classes)}
        lineage = {
            "mlflow.data.context": "training",
            "dataset_version": version.id,  # MLflow's digest holds 36 characters, this one 64
            "parent": version.parent_id or "none",
            "cause": version.cause[:_TAG],
            "segments": str(extent["segments"]),
        }
        dataset = Dataset(
            name=f"version {version.number}",
            digest=version.id[:_DIGEST],
            source_type="s3",
            source=json.dumps({"uri": source}),
            profile=json.dumps(counts | changes | extent),
        )
        with translated(f"run {self.id}"):
            self._client.log_batch(self.id, params=[Param(k, str(v)) for k, v in params.items()])
            tags = [InputTag(key, value) for key, value in lineage.items()]
            self._client.log_inputs(self.id, [DatasetInput(dataset, tags)])

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """A point for each metric; sent with the next batch."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(k, v, now, step) for k, v in values.items()]
        if time.monotonic() - self._sent > _LIVE_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            with translated(f"run {self.id}"):
                self._client.log_batch(self.id, metrics=self._waiting)
        self._waiting, self._sent = [], time.monotonic()

    def tag(self, name: str, value: str) -> None:
        with translated(f"run {self.id}"):
            self._client.set_tag(self.id, name, value)

    def artifacts(self, write: Callable[[Path], None]) -> None:
        """Keep the files that `write` puts into the folder it is given."""
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            with translated(f"run {self.id}"):
                self._client.log_artifacts(self.id, folder)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """System metrics during the block, if psutil is installed: MLflow's own monitor."""
        if find_spec("psutil") is None:
            yield
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        with translated(f"run {self.id}"):
            make: Any = SystemMetricsMonitor  # without annotations
            monitor = make(self.id, _WATCH_SECONDS, tracking_uri=self._client.tracking_uri)
            monitor.start()
        try:
            yield
        finally:
            monitor.finish()
            with suppress(MlflowException, OSError):
                # It drops what it saw since its last report, which is all there is of a short training.
                monitor.collect_metrics()
                monitor.publish_metrics(monitor.aggregate_metrics())
                monitor.mlflow_logger.flush()


def close_abandoned(registry: Registry, experiment: str, cycle_id: str, finished: str | None) -> None:
    """End the cycle's runs that a killed process left running: `finished` as finished, others as killed.

    For the one trainer that a cycle has at a time.
    """
    with translated(f"runs of cycle {cycle_id}"):
        found = registry.client.get_experiment_by_name(experiment)
        if found is None:
            return
        query = f"tags.cycle = '{cycle_id}' and attributes.status = 'RUNNING'"
        for left in registry.client.search_runs([found.experiment_id], query):
            run = Run(registry, left.info.run_id)
            run.end("FINISHED" if run.id == finished else "KILLED")


def _experiment_id(registry: Registry, name: str) -> str:
    client = registry.client
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException as error:
            # Another process was quicker.
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or (found := client.get_experiment_by_name(name)) is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)
