"""Lets MLflow load a bundle as a normal model: `models:/NAME@champion`. Named by module, never unpickled."""

import base64
import binascii
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from ml.errors import ImageRejectedError, InvalidInputError
from ml.imaging import images
from ml.imaging.images import Limits, Pixels
from ml.models import variants
from ml.models.model import Model

if TYPE_CHECKING:
    from pandas import DataFrame

_COLUMN: Final = "image"
_TOLERANCE: Final = 1e-3
_BATCH: Final = 64
_LIMITS: Final = Limits(20_000_000, 40_000_000)
"""The defaults of the settings, which are not at hand where MLflow loads a model."""


class BundlePredictor:
    """What `mlflow.pyfunc.load_model(...)` gives."""

    def __init__(self, loaded: Model) -> None:
        self._model = loaded

    def predict(
        self, model_input: "Pixels | DataFrame", params: dict[str, Any] | None = None
    ) -> "NDArray[np.float32] | DataFrame":
        """Probabilities for pixels, answers for files.

        Args:
            model_input: ``uint8[N, size, size, channels]``; or a table whose column `image` holds encoded images
                as bytes, or as text in base64, as `mlflow models serve` has it.

        Returns:
            ``float32[N, classes]`` in the order of the bundle's labels; for a table, one with the columns `label`
            and `probability` and the same index.

        Raises:
            InvalidInputError: it is neither, or a row is no image.
        """
        del params
        if hasattr(model_input, "columns"):
            return self._table(model_input)
        info = self._model.info
        shape = (info.image_size, info.image_size, info.channels)
        pixels = np.asarray(model_input)
        if pixels.dtype != np.uint8 or pixels.shape[1:] != shape:
            wanted = f"uint8[N, {', '.join(map(str, shape))}] or a table with a column `{_COLUMN}`"
            received = f"{pixels.dtype}{list(pixels.shape)}"
            raise InvalidInputError(f"`model_input` must be {wanted} (received {received})")
        return self._model.predict(pixels)

    def _table(self, table: "DataFrame") -> "DataFrame":
        from pandas import DataFrame

        if _COLUMN not in table.columns:
            raise InvalidInputError(f"`model_input` must have a column `{_COLUMN}` (received {list(table.columns)})")
        files, labels = list(table[_COLUMN]), np.asarray(self._model.info.labels)
        best, chance = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
        for start in range(0, len(files), _BATCH):
            batch = [self._decoded(file, start + i) for i, file in enumerate(files[start : start + _BATCH])]
            answers = self._model.predict(np.stack(batch))
            best.append(answers.argmax(1))
            chance.append(answers.max(1))
        columns = {"label": labels[np.concatenate(best)], "probability": np.concatenate(chance)}
        return DataFrame(columns, index=table.index)

    def _decoded(self, file: Any, row: int) -> Pixels:
        info = self._model.info
        try:
            data = base64.b64decode(file, validate=True) if isinstance(file, str) else bytes(file)
            return images.decode(data, info.image_size, info.channels, _LIMITS)
        except (ImageRejectedError, binascii.Error, TypeError, ValueError) as error:
            raise InvalidInputError(f"row {row} of column `{_COLUMN}` is no image: {error}") from error


def _load_pyfunc(path: str) -> BundlePredictor:
    """MLflow's entry; `path` is the bundle folder."""
    return BundlePredictor(variants.load_proven(Path(path), _TOLERANCE))
