"""A network learns, the same way twice, and its bundle answers as it does."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ml import bundle, images, model
from ml.bundle import BundleInfo
from ml.errors import IntegrityError
from ml.training import export, networks
from ml.training.fit import Fitted, Recipe, fit, logits_of
from tests.pictures import digits

LIMITS = images.Limits(10**6, 10**6)
RECIPE = Recipe(epochs=6, patience=5, batch_size=32, learning_rate=2e-3, seed=3)


@pytest.fixture(scope="module")
def arrays() -> tuple[np.ndarray, np.ndarray]:
    x = np.stack([images.decode(data, 24, 1, LIMITS) for _, data in digits()[:360]])
    return x, np.asarray([int(label) for label, _ in digits()[:360]], np.int64)


@pytest.fixture(scope="module")
def fitted(arrays: tuple[np.ndarray, np.ndarray]) -> Fitted:
    return learn(arrays)


def learn(arrays: tuple[np.ndarray, np.ndarray]) -> Fitted:
    x, y = arrays
    return fit(networks.seeded(1, 10, 24, 3), (x[:300], y[:300]), (x[300:], y[300:]), RECIPE)


def info(**changes: object) -> BundleInfo:
    values: dict[str, object] = {
        "architecture": "small_cnn",
        "labels": tuple("0123456789"),
        "image_size": 24,
        "channels": 1,
        "dataset_version": "v",
        "run_id": "r",
        "code_version": "c",
        "seed": 3,
        "class_shares": {},
        "files": {},
    }
    return BundleInfo.model_validate(values | changes)


def test_it_learns_and_twice_the_same(fitted: Fitted, arrays: tuple[np.ndarray, np.ndarray]) -> None:
    assert max(row["validation_accuracy"] for row in fitted.history) > 0.6
    again = learn(arrays)
    for name, weights in fitted.network.state_dict().items():
        assert torch.equal(weights, again.network.state_dict()[name]), name


def test_the_bundle_answers_as_the_network_for_any_batch(
    fitted: Fitted, arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    digest = export.export(fitted.network, info(), arrays[0][:40], tmp_path)
    assert digest == bundle.digest((tmp_path / bundle.INFO).read_bytes())
    loaded = model.load(tmp_path)
    model.check_probes(loaded, tmp_path, 1e-5)
    expected = torch.softmax(logits_of(fitted.network, arrays[0][:7]), 1).numpy()
    assert loaded.predict(arrays[0][:7]) == pytest.approx(expected, abs=1e-4)
    assert loaded.predict(arrays[0][:1]).shape == (1, 10)


def test_a_bundle_with_other_labels_is_refused(
    fitted: Fitted, arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    export.export(fitted.network, info(), arrays[0][:20], tmp_path)
    bundle.write(tmp_path, info(labels=("a", "b")))
    with pytest.raises(IntegrityError):
        model.load(tmp_path)


def test_the_head_keeps_its_labels_when_classes_come(fitted: Fitted) -> None:
    old, new = tuple("0123456789"), tuple("!0123456789z")
    grown = networks.seeded(1, len(new), 24, 1)
    networks.carry_head(grown, fitted.network.state_dict(), old, new)
    for position, label in enumerate(new):
        if label in old:
            assert torch.equal(grown.head.weight[position], fitted.network.head.weight[old.index(label)])


def test_temperature_lowers_the_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (500,), generator=generator)
    logits = 8 * torch.randn(500, 5, generator=generator)
    logits[torch.arange(500), labels] += 6
    heat = export.temperature(logits, labels.numpy())
    loss = torch.nn.functional.cross_entropy
    assert heat > 1.5
    assert loss(logits / heat, labels) < loss(logits, labels)
