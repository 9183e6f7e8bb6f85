"""MLflow tracking of a training run: parameters, live metrics, dataset, artifacts and status."""

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
from ml.models.registry import translate_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

_LIVE_SECONDS: Final = 2.0
"""Minimum interval between metric batches: a call takes as long as an epoch of a small dataset."""
_WATCH_SECONDS: Final = 5.0
_DIGEST: Final = 32
_TAG: Final = 500


class Run:
    """An MLflow run. Every method raises `UnavailableError` when MLflow does not answer."""

    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        self.id = run_id
        self._client = client
        self._pending: list[Metric] = []
        self._sent = time.monotonic()

    @classmethod
    def start(cls, client: "MlflowClient", experiment: str, name: str, tags: Mapping[str, str]) -> "Run":
        """Create a run; the experiment is created if it does not exist."""
        with translate_errors(f"a run in experiment `{experiment}`"):
            created = client.create_run(_experiment_id(client, experiment), run_name=name, tags=dict(tags))
        return cls(client, str(created.info.run_id))

    @contextmanager
    def terminating(self) -> Iterator[None]:
        """End the run after the block: finished, failed if the block raises, killed if it is interrupted."""
        try:
            yield
            self.flush()
        except BaseException as error:
            with suppress(EvergreenError):  # the block's error is the one to raise
                self.end("FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        self.end("FINISHED")

    def end(self, status: str) -> None:
        with translate_errors(f"run {self.id}"):
            self._client.set_terminated(self.id, status)

    def log_inputs(self, ctx: Context, version: DatasetVersion, params: Mapping[str, Any]) -> None:
        """Log parameters, and the dataset version with its lineage as the run's input.

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
        with translate_errors(f"run {self.id}"):
            self._client.log_batch(self.id, params=[Param(k, str(v)) for k, v in params.items()])
            tags = [InputTag(key, value) for key, value in lineage.items()]
            self._client.log_inputs(self.id, [DatasetInput(dataset, tags)])

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each metric; sent with the next batch."""
        from mlflow.entities import Metric

        timestamp = int(time.time() * 1000)
        self._pending += [Metric(k, v, timestamp, step) for k, v in values.items()]
        if time.monotonic() - self._sent > _LIVE_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self._pending:
            with translate_errors(f"run {self.id}"):
                self._client.log_batch(self.id, metrics=self._pending)
        self._pending, self._sent = [], time.monotonic()

    def set_tag(self, name: str, value: str) -> None:
        with translate_errors(f"run {self.id}"):
            self._client.set_tag(self.id, name, value)

    def log_artifacts(self, write: Callable[[Path], None]) -> None:
        """Log the files that `write` creates in a temporary folder."""
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            with translate_errors(f"run {self.id}"):
                self._client.log_artifacts(self.id, folder)

    @contextmanager
    def system_metrics(self) -> Iterator[None]:
        """Log system metrics during the block with MLflow's monitor, if psutil is installed."""
        if find_spec("psutil") is None:
            yield
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        with translate_errors(f"run {self.id}"):
            make: Any = SystemMetricsMonitor  # without annotations
            monitor = make(self.id, _WATCH_SECONDS, tracking_uri=self._client.tracking_uri)
            monitor.start()
        try:
            yield
        finally:
            monitor.finish()
            with suppress(MlflowException, OSError):
                # On finish it drops samples since its last report; a short training has no others.
                monitor.collect_metrics()
                monitor.publish_metrics(monitor.aggregate_metrics())
                monitor.mlflow_logger.flush()


def close_abandoned(client: "MlflowClient", experiment: str, cycle_id: str, finished: str | None) -> None:
    """End runs of the cycle that a killed process left running: `finished` as finished, all others as killed.

    Only for use by the single trainer of the cycle.
    """
    with translate_errors(f"runs of cycle {cycle_id}"):
        experiment_info = client.get_experiment_by_name(experiment)
        if experiment_info is None:
            return
        query = f"tags.cycle = '{cycle_id}' and attributes.status = 'RUNNING'"
        for stale in client.search_runs([experiment_info.experiment_id], query):
            run = Run(client, stale.info.run_id)
            run.end("FINISHED" if run.id == finished else "KILLED")


def _experiment_id(client: "MlflowClient", name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException as error:
            # Another process created it at the same time.
            if (
                error.error_code != "RESOURCE_ALREADY_EXISTS"
                or (experiment := client.get_experiment_by_name(name)) is None
            ):
                raise
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)
