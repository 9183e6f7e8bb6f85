"""The artifacts of a training run: plots, tables and the model card."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from ml.models.bundle import BundleInfo
from ml.training.data.training_data import TrainingData
from ml.training.loop.evaluation import Evaluation, as_csv
from ml.training.loop.fit import FitResult
from ml.training.loop.recipe import Recipe
from ml.training.tracking import card, figures
from ml.training.tracking.lineage import environment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MISTAKES: Final = 24


@dataclass(frozen=True)
class RunFiles:
    """A finished training and the files that document it."""

    material: TrainingData
    recipe: Recipe
    fitted: FitResult
    info: BundleInfo
    evaluation: Evaluation

    def card(self) -> str:
        origin = {name: value for name, value in self.material.origin().items() if value != "none"}
        return card.text(self.info, self.material.version, self.material.plan, self.recipe, self.evaluation, origin)

    def write(self, folder: Path) -> None:
        """Write all files into `folder`."""
        plots = folder / "plots"
        plots.mkdir()
        self._save(figures.curves(self.fitted.history, self.fitted.points), plots / "curves.png")
        self._save(figures.confusion(self.evaluation.confusion(), self.evaluation.classes), plots / "confusion.png")
        worst = self.evaluation.worst(_MISTAKES)
        pictures = np.asarray(self.material.validation.images[worst])
        self._save(figures.mistakes(pictures, worst, self.evaluation), plots / "mistakes.png")
        (folder / "classes.csv").write_text(as_csv(self.evaluation.by_class()), encoding="utf-8")
        (folder / "mistakes.csv").write_text(self._mistakes(worst), encoding="utf-8")
        (folder / "plan.json").write_text(json.dumps(self.material.as_params() | vars(self.recipe), indent=1))
        (folder / "environment.txt").write_text(environment(), encoding="utf-8")
        (folder / "model-card.md").write_text(self.card(), encoding="utf-8")

    def _mistakes(self, worst: "np.ndarray") -> str:
        """CSV of the samples on the sheet of mistakes, in the same order."""
        rows = [f"{self.material.validation.sha256[i]},{self.evaluation.label_probabilities[i]:.4f}" for i in worst]
        return "\n".join(("sha256,probability_of_its_label", *rows)) + "\n"

    @staticmethod
    def _save(figure: "Figure", path: Path) -> None:
        figure.savefig(path, dpi=100)


def evaluate(material: TrainingData, logits: Tensor, temperature: float) -> Evaluation:
    """Evaluate `logits` ``float32[N, classes]`` of the validation samples."""
    probabilities = torch.softmax(logits / temperature, 1).numpy()
    classes = material.version.classes
    trained = np.bincount(material.train.labels[material.plan.chosen], minlength=len(classes))
    return Evaluation(material.validation.labels, probabilities, classes, trained)
