"""What a training run leaves in MLflow: parameters, live metrics, its dataset, pictures, how it ended."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from ml.datasets.versions import DatasetVersion
from ml.errors import EvergreenError
from ml.registry import Registry, translated

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import Metric

_LIVE_SECONDS: Final = 2.0
"""Metrics are sent at most this often: a call costs as much as an epoch of a small data set."""


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

    def inputs(self, version: DatasetVersion, params: Mapping[str, Any]) -> None:
        """Parameters, and the dataset version as the run's input."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        dataset = Dataset(
            name=f"version {version.number}",
            digest=version.id[:32],
            source_type="evergreen",
            source=f'{{"manifest": "versions/{version.id}.json"}}',
            profile=f'{{"train": {version.train}, "validation": {version.validation}, "holdout": {version.holdout}}}',
        )
        with translated(f"run {self.id}"):
            self._client.log_batch(self.id, params=[Param(k, str(v)) for k, v in params.items()])
            self._client.log_inputs(self.id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

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

    def figure(self, figure: "Figure", path: str) -> None:
        with translated(f"run {self.id}"):
            self._client.log_figure(self.id, figure, path)


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
    from mlflow.exceptions import MlflowException

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
