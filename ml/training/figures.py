"""The pictures of a training run. No pyplot: nothing global, nothing that opens a window."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray


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
