"""What a training run leaves in MLflow: parameters, curves, confusion matrix, its dataset."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from numpy.typing import NDArray

from ml.datasets.versions import DatasetVersion


def begin(client: MlflowClient, experiment: str, name: str, tags: Mapping[str, str]) -> str:
    """A running run's id, in an experiment that is made if it is not there."""
    found = client.get_experiment_by_name(experiment)
    experiment_id = found.experiment_id if found else client.create_experiment(experiment)
    run_id: str = client.create_run(experiment_id, run_name=name, tags=dict(tags)).info.run_id
    return run_id


def log_inputs(client: MlflowClient, run_id: str, version: DatasetVersion, params: Mapping[str, Any]) -> None:
    """Parameters, and the dataset version as the run's input."""
    client.log_batch(run_id, params=[Param(k, str(v)) for k, v in params.items()])
    dataset = Dataset(
        name=f"version {version.number}",
        digest=version.id[:32],
        source_type="evergreen",
        source=f'{{"manifest": "versions/{version.id}.json"}}',
        profile=f'{{"train": {version.train}, "validation": {version.validation}, "holdout": {version.holdout}}}',
    )
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def log_history(client: MlflowClient, run_id: str, history: Sequence[Mapping[str, float]]) -> None:
    """One point an epoch for every metric."""
    now = int(time.time() * 1000)
    metrics = [Metric(k, v, now, epoch) for epoch, row in enumerate(history, 1) for k, v in row.items()]
    client.log_batch(run_id, metrics=metrics)


def log_summary(client: MlflowClient, run_id: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
    now = int(time.time() * 1000)
    client.log_batch(
        run_id,
        metrics=[Metric(k, v, now, 0) for k, v in metrics.items()],
        tags=[RunTag(k, v) for k, v in tags.items()],
    )


def curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """Loss and accuracy by epoch."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    epochs = range(1, len(history) + 1)
    for name in ("train_loss", "validation_loss"):
        left.plot(epochs, [row[name] for row in history], marker=".", label=name.replace("_", " "))
    right.plot(epochs, [row["validation_accuracy"] for row in history], marker=".", color="tab:green")
    left.set(xlabel="epoch", ylabel="cross-entropy (nats)")
    right.set(xlabel="epoch", ylabel="validation accuracy", ylim=(0, 1.02))
    left.legend()
    return figure


def confusion(truth: NDArray[np.int64], answers: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Rows are given labels, columns answers; shares of a row as colour, counts as text while they fit."""
    n = len(classes)
    matrix = np.zeros((n, n), int)
    np.add.at(matrix, (truth, answers), 1)
    shares = matrix / np.maximum(1, matrix.sum(1, keepdims=True))
    side = min(12.0, 2.2 + 0.45 * n)
    figure = Figure(figsize=(side, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [c if len(c) <= 14 else c[:13] + "…" for c in classes]
    axes.set(xlabel="answer", ylabel="given label", xticks=range(n), yticks=range(n), yticklabels=names)
    axes.set_xticklabels(names, rotation=45, ha="right")
    axes.set_title("Confusion on the validation split")
    if n <= 20:
        for i, j in np.argwhere(matrix):
            axes.text(
                j, i, str(matrix[i, j]), ha="center", va="center", color="white" if shares[i, j] > 0.5 else "black"
            )
    return figure
