"""Images of other kinds told from those a model was trained on: a small CNN on CIFAR-10, 12,000 images, 8 epochs.

AUROC over CIFAR-10's test images and each other set: the chance that an image of the other set is found stranger than
one of CIFAR-10. `distance` is what bundles carry (`ml/models/ood.py`), `confidence` one minus the largest probability.
Fashion-MNIST is grey pictures of clothes; PACS are photos of kinds that CIFAR-10 does not have (elephant, giraffe,
guitar, house, person); noise is noise. `rejected` is the share beyond 1, of CIFAR-10's own test images too.
"""

import gzip
import io
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ml.imaging.images import Pixels
from ml.models import model
from ml.models.bundle import BundleInfo
from ml.models.model import Model
from ml.settings import Settings
from ml.training import export
from ml.training.loop import recipe
from ml.training.loop.fit import fit
from ml.training.network import networks
from tests.bench.parts import stored
from tests.bench.parts.stream import pixels

SIDE, TRAIN, VALIDATION, OTHERS, EPOCHS = 32, 12_000, 2_000, 2_000, 8
BEYOND: Final = 1.0
FOREIGN: Final = frozenset({"elephant", "giraffe", "guitar", "house", "person"})
_DATA: Final = stored.DATA.parent.parent


def run() -> dict[str, Any]:
    """Figures of each other set."""
    try:
        usual, _ = pixels(stored.DATA.with_name("test.tar"), OTHERS)
        others = {"Fashion-MNIST": _fashion(), "PACS": _pacs(), "noise": _noise()}
        with tempfile.TemporaryDirectory() as folder:
            judge = _trained(Path(folder))
            figures = _figures(judge, usual, others)
    except FileNotFoundError as error:
        raise SystemExit(f"nothing to measure: {error}") from None
    return {"runs": 1, "figures": figures}


def _trained(folder: Path) -> Model:
    images, labels = pixels(stored.DATA, TRAIN + VALIDATION)
    order = np.random.default_rng(0).permutation(len(labels))
    train, held = order[VALIDATION:], order[:VALIDATION]
    chosen = recipe.from_settings(Settings(seed=1), len(train), SIDE, 3, epochs=EPOCHS, threads=1)
    network = networks.seeded(3, 10, SIDE, 1)
    fitted = fit(network, (images[train], labels[train]), (images[held], labels[held]), chosen)
    info = BundleInfo(
        architecture="small_cnn", labels=tuple(map(str, range(10))), image_size=SIDE, channels=3, dataset_version="d",
        run_id="r", code_version="c", seed=1, class_shares={}, files={},
    )  # fmt: skip
    export.export(fitted.network, info, images[held], folder, (images[train], labels[train]))
    return model.load(folder)


def _figures(judge: Model, usual: Pixels, others: dict[str, Pixels]) -> dict[str, float]:
    probability, distance = _judged(judge, usual)
    figures = {"CIFAR-10: rejected": round(float((distance > BEYOND).mean()), 4)}
    for name, images in others.items():
        strange, far = _judged(judge, images)
        figures[f"{name}: AUROC by distance"] = round(_auroc(distance, far), 4)
        figures[f"{name}: AUROC by confidence"] = round(_auroc(1 - probability, 1 - strange), 4)
        figures[f"{name}: rejected"] = round(float((far > BEYOND).mean()), 4)
    return figures


def _judged(judge: Model, images: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    probabilities, distances = judge.predict_with_distances(images)
    if distances is None:
        raise SystemExit("the bundle has no statistics of features")
    return probabilities.max(axis=1), distances


def _auroc(usual: NDArray[np.float32], strange: NDArray[np.float32]) -> float:
    """Mann and Whitney's statistic as a share; ties do not matter among so many values."""
    ranks = np.concatenate([usual, strange]).argsort().argsort() + 1
    count = len(strange)
    return float((ranks[len(usual) :].sum() - count * (count + 1) / 2) / (count * len(usual)))


def _fashion() -> Pixels:
    data = gzip.decompress((_DATA / "fashion-mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())
    grey = np.frombuffer(data, np.uint8, offset=16).reshape(-1, 28, 28)[:OTHERS]
    return np.stack([_fitted(Image.fromarray(one)) for one in grey])


def _pacs() -> Pixels:
    with tarfile.open(_DATA / "drift" / "pacs-photo.tar") as archive:
        chosen = [m for m in archive if m.isfile() and m.name.split("/")[-2] in FOREIGN]
        return np.stack([_fitted(Image.open(io.BytesIO(archive.extractfile(m).read()))) for m in chosen])  # type: ignore[union-attr]


def _noise() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (OTHERS, SIDE, SIDE, 3), dtype=np.uint8)


def _fitted(image: Image.Image) -> Pixels:
    return np.asarray(ImageOps.fit(image.convert("RGB"), (SIDE, SIDE), Image.Resampling.BILINEAR))
