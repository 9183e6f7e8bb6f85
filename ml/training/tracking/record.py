"""The files that a training leaves with its run, for people."""

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
from ml.training.loop.fit import Fitted
from ml.training.loop.recipe import Recipe
from ml.training.tracking import card, figures
from ml.training.tracking.lineage import environment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MISTAKES: Final = 24


@dataclass(frozen=True)
class RunFiles:
    """A finished training, told to people."""

    material: TrainingData
    recipe: Recipe
    fitted: Fitted
    info: BundleInfo
    told: Evaluation

    def card(self) -> str:
        origin = {name: value for name, value in self.material.origin().items() if value != "none"}
        return card.text(self.info, self.material.version, self.material.plan, self.recipe, self.told, origin)

    def write(self, folder: Path) -> None:
        """All of it into `folder`."""
        plots = folder / "plots"
        plots.mkdir()
        self._save(figures.curves(self.fitted.history, self.fitted.points), plots / "curves.png")
        self._save(figures.confusion(self.told.confusion(), self.told.classes), plots / "confusion.png")
        worst = self.told.worst(_MISTAKES)
        pictures = np.asarray(self.material.judge.images[worst])
        self._save(figures.mistakes(pictures, worst, self.told), plots / "mistakes.png")
        (folder / "classes.csv").write_text(as_csv(self.told.by_class()), encoding="utf-8")
        (folder / "mistakes.csv").write_text(self._mistakes(worst), encoding="utf-8")
        (folder / "plan.json").write_text(json.dumps(self.material.as_params() | vars(self.recipe), indent=1))
        (folder / "environment.txt").write_text(environment(), encoding="utf-8")
        (folder / "model-card.md").write_text(self.card(), encoding="utf-8")

    def _mistakes(self, worst: "np.ndarray") -> str:
        """Which samples the sheet shows, in its order."""
        rows = [f"{self.material.judge.sha256[i]},{self.told.given[i]:.4f}" for i in worst]
        return "\n".join(("sha256,probability_of_its_label", *rows)) + "\n"

    @staticmethod
    def _save(figure: "Figure", path: Path) -> None:
        figure.savefig(path, dpi=100)


def evaluated(material: TrainingData, logits: Tensor, temperature: float) -> Evaluation:
    """How the network did on the samples that judged it; `logits`: ``float32[N, classes]``."""
    probabilities = torch.softmax(logits / temperature, 1).numpy()
    classes = material.version.classes
    trained = np.bincount(material.train.labels[material.plan.chosen], minlength=len(classes))
    return Evaluation(material.judge.labels, probabilities, classes, trained)
