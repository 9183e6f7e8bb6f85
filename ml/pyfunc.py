"""Lets MLflow load a bundle as a normal model: `models:/NAME@champion`. Named by module, never unpickled."""

from pathlib import Path
from typing import Any

import numpy as np

from ml import model
from ml.images import Pixels
from ml.model import Model


class BundlePredictor:
    """What `mlflow.pyfunc.load_model(...)` gives."""

    def __init__(self, loaded: Model) -> None:
        self._model = loaded

    def predict(self, model_input: Pixels, params: dict[str, Any] | None = None) -> np.ndarray[Any, Any]:
        """Probabilities ``float32[N, classes]`` of ``uint8[N, size, size, channels]``."""
        del params
        return self._model.predict(np.asarray(model_input, np.uint8))


def _load_pyfunc(path: str) -> BundlePredictor:
    """MLflow's entry; `path` is the bundle folder."""
    return BundlePredictor(model.load(Path(path)))
