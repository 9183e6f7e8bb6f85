"""Plots of a training run. Without pyplot, so without global state or windows."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ml.imaging.images import Pixels
from ml.training.loop.evaluation import Evaluation

_COLUMNS: Final = 6
_CELL: Final = 150
_WORDS: Final = 34
_GAP: Final = 6
"""Layout of the sheet of mistakes in pixels: cell with gaps, text lines below it, gap."""


def curves(history: Sequence[Mapping[str, float]], points: Sequence[Mapping[str, float]]) -> Figure:
    """Loss, accuracy and learning rate over the epochs.

    Args:
        history: metrics per epoch.
        points: metrics of single steps, with a fractional `epoch`.
    """
    figure = _figure(12, 3)
    left, middle, right = figure.subplots(1, 3)
    epochs = range(1, len(history) + 1)
    when = [point["epoch"] for point in points]
    left.plot(when, [point["loss"] for point in points], color="tab:blue", alpha=0.3, lw=0.8, label="a step")
    for name, colour in (("train_loss", "tab:blue"), ("validation_loss", "tab:orange")):
        values = [row[name] for row in history]
        left.plot(epochs, values, marker=".", color=colour, label=name.replace("_", " "))
    middle.plot(epochs, [row["validation_accuracy"] for row in history], marker=".", color="tab:green")
    right.plot(when, [point["learning_rate"] for point in points], color="tab:red")
    left.set(xlabel="epoch", ylabel="cross-entropy (nats)", ylim=(0, None))
    middle.set(xlabel="epoch", ylabel="validation accuracy", ylim=(0, 1.02))
    right.set(xlabel="epoch", ylabel="learning rate", ylim=(0, None))
    left.legend()
    return figure


def confusion(matrix: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Confusion matrix: true labels by predictions; row shares as colour, counts as text if they fit."""
    n = len(classes)
    shares = matrix / np.maximum(1, matrix.sum(1, keepdims=True))
    side = min(12.0, 2.2 + 0.45 * n)
    figure = _figure(side, side)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [_short(name) for name in classes]
    axes.set(xlabel="answer", ylabel="given label", xticks=range(n), yticks=range(n), yticklabels=names)
    axes.set_xticklabels(names, rotation=45, ha="right")
    axes.set_title("Confusion on the validation split")
    if n <= 20:
        for i, j in np.argwhere(matrix):
            axes.text(
                j, i, str(matrix[i, j]), ha="center", va="center", color="white" if shares[i, j] > 0.5 else "black"
            )
    return figure


def mistakes(images: Pixels, positions: NDArray[np.int64], evaluation: Evaluation) -> Figure:
    """A sheet of misclassified images with label and prediction.

    All images share one set of axes: one set per image took seconds.

    Args:
        images: ``uint8[M, side, side, channels]``, M ≥ 0.
        positions: ``int64[M]``, the images' positions in `evaluation`.
    """
    rows = max(1, math.ceil(len(images) / _COLUMNS))
    width, height = _COLUMNS * _CELL, rows * (_CELL + _WORDS) + _WORDS
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    wrong = int((evaluation.answers != evaluation.truth).sum())
    title = f"The {len(images)} worst of {wrong} wrong answers" if wrong else "No wrong answer"
    axes.text(_GAP, _WORDS / 2, f"{title} on {len(evaluation.truth)} validation samples", fontsize=10, va="center")
    for number, (image, position) in enumerate(zip(images, positions, strict=True)):
        left, top = number % _COLUMNS * _CELL + _GAP, number // _COLUMNS * (_CELL + _WORDS) + _WORDS
        picture = image.squeeze(-1) if image.shape[-1] == 1 else image
        extent = (left, left + _CELL - 2 * _GAP, top + _CELL - 2 * _GAP, top)
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255, extent=extent, interpolation="nearest", aspect="auto")
        answer, label = int(evaluation.answers[position]), int(evaluation.truth[position])
        for row, (kind, c, colour) in enumerate((("label", label, "black"), ("answer", answer, "tab:red"))):
            text = f"{kind} {_short(evaluation.classes[c])}  {evaluation.probabilities[position, c]:.0%}"
            axes.text(left, top + _CELL - _GAP + 13 * row, text, fontsize=7, va="top", color=colour)
    axes.set(xlim=(0, width), ylim=(height, 0))  # imshow changed the limits
    return figure


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _short(name: str) -> str:
    return name if len(name) <= 14 else name[:13] + "…"
