"""A network learns, the same way twice, and its bundle answers as it does."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ml.errors import IntegrityError
from ml.imaging import images
from ml.models import bundle, model
from ml.models.bundle import BundleInfo
from ml.training import export
from ml.training.data.augment import DRAWS, light
from ml.training.loop.checkpoint import Checkpoint
from ml.training.loop.fit import FitResult, compute_logits, fit
from ml.training.loop.recipe import Recipe
from ml.training.network import networks
from tests.pictures import digits

LIMITS = images.Limits(10**6, 10**6)
RECIPE = Recipe(epochs=6, patience=5, batch_size=32, learning_rate=2e-3, seed=3)


@pytest.fixture(scope="module")
def arrays() -> tuple[np.ndarray, np.ndarray]:
    x = np.stack([images.decode(data, 24, 1, LIMITS) for _, data in digits()[:360]])
    return x, np.asarray([int(label) for label, _ in digits()[:360]], np.int64)


@pytest.fixture(scope="module")
def fitted(arrays: tuple[np.ndarray, np.ndarray]) -> FitResult:
    return learn(arrays)


def learn(arrays: tuple[np.ndarray, np.ndarray]) -> FitResult:
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


def test_it_learns_and_twice_the_same(fitted: FitResult, arrays: tuple[np.ndarray, np.ndarray]) -> None:
    assert max(row["validation_accuracy"] for row in fitted.history) > 0.6
    again = learn(arrays)
    for name, weights in fitted.network.state_dict().items():
        assert torch.equal(weights, again.network.state_dict()[name]), name


def test_the_bundle_answers_as_the_network_for_any_batch(
    fitted: FitResult, arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    digest = export.export(fitted.network, info(), arrays[0][:40], tmp_path)
    assert digest == bundle.digest((tmp_path / bundle.INFO).read_bytes())
    loaded = model.load(tmp_path)
    model.check_probes(loaded, tmp_path, 1e-5)
    expected = torch.softmax(compute_logits(fitted.network, arrays[0][:7]), 1).numpy()
    assert loaded.predict(arrays[0][:7]) == pytest.approx(expected, abs=1e-4)
    assert loaded.predict(arrays[0][:1]).shape == (1, 10)


def test_the_bundle_tells_what_is_unlike_its_training_set(
    fitted: FitResult, arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    x, y = arrays
    export.export(fitted.network, info(), x[300:], tmp_path, (x[:300], y[:300]))
    loaded = model.load(tmp_path)
    probabilities, near = loaded.predict_with_distances(x[300:])
    assert np.array_equal(probabilities, loaded.predict(x[300:]))
    noise = np.random.default_rng(0).integers(0, 256, x[300:].shape, np.uint8)
    _, far = loaded.predict_with_distances(noise)
    assert near is not None
    assert far is not None
    assert (near <= 1).mean() > 0.97
    assert np.median(far) > np.median(near) * 1.5
    (tmp_path / bundle.FEATURES).write_bytes(b"damaged")
    with pytest.raises(IntegrityError):
        model.load(tmp_path)


def test_a_bundle_with_other_labels_is_refused(
    fitted: FitResult, arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    export.export(fitted.network, info(), arrays[0][:20], tmp_path)
    bundle.write(tmp_path, info(labels=("a", "b")))
    with pytest.raises(IntegrityError):
        model.load(tmp_path)


def test_the_head_keeps_its_labels_when_classes_come(fitted: FitResult) -> None:
    old, new = tuple("0123456789"), tuple("!0123456789z")
    grown = networks.seeded(1, len(new), 24, 1)
    networks.carry_head(grown, fitted.network.state_dict(), old, new)
    before, after = (network.state_dict()["head.weight"] for network in (fitted.network, grown))
    for position, label in enumerate(new):
        if label in old:
            assert torch.equal(after[position], before[old.index(label)])


def test_temperature_lowers_the_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (500,), generator=generator)
    logits = 8 * torch.randn(500, 5, generator=generator)
    logits[torch.arange(500), labels] += 6
    heat = export.temperature(logits, labels.numpy())
    loss = torch.nn.functional.cross_entropy
    assert heat > 1.5
    assert loss(logits / heat, labels) < loss(logits, labels)


def test_weights_of_another_network_are_refused(fitted: FitResult) -> None:
    labels = tuple("0123456789")
    large = networks.seeded(3, 10, 96, 0)
    with pytest.raises(IntegrityError, match="do not fit"):
        networks.carry_head(large, fitted.network.state_dict(), labels, labels)
    with pytest.raises(IntegrityError, match="do not fit"):
        networks.carry_head(large, {}, labels, labels)


def test_an_onnx_model_that_answers_otherwise_is_refused(
    fitted: FitResult, arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    export.export(networks.seeded(1, 10, 24, 5), info(), arrays[0][:20], tmp_path)
    with pytest.raises(IntegrityError, match="ONNX and PyTorch differ"):
        export._check_parity(fitted.network, model.load(tmp_path), arrays[0][:20])


def test_the_bundle_is_plain_files_on_their_own(
    fitted: FitResult, arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    export.export(fitted.network, info(), arrays[0][:20], tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {bundle.INFO, bundle.MODEL, bundle.PROBES, bundle.WEIGHTS}


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (24, 1), (48, 3), (96, 3)])
def test_every_size_of_input_is_learned_and_exported(side: int, channels: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    y = np.arange(33) % 2  # with batches of 32, one image more than fits
    x = (
        generator.integers(0, 100, (33, side, side, channels), np.uint8)
        + (y * 100).astype(np.uint8)[:, None, None, None]
    )
    recipe = Recipe(epochs=1, patience=1, batch_size=32, learning_rate=1e-3, seed=0, flips=True)
    done = fit(networks.seeded(channels, 2, side, 0), (x, y), (x, y), recipe)
    digest = export.export(done.network, info(labels=("a", "b"), image_size=side, channels=channels), x, tmp_path)
    assert digest


def test_a_warm_network_keeps_its_weights_when_no_epoch_betters_them(
    fitted: FitResult, arrays: tuple[np.ndarray, np.ndarray]
) -> None:
    x, y = arrays
    wild = Recipe(epochs=9, patience=2, batch_size=32, learning_rate=5.0, seed=0)
    network = networks.seeded(1, 10, 24, 0)
    network.load_state_dict(fitted.network.state_dict())
    done = fit(network, (x[:300], y[:300]), (x[300:], y[300:]), wild, warm=True)
    assert done.best_epoch == -1
    assert done.best == done.start
    assert done.start["validation_loss"] == pytest.approx(fitted.best["validation_loss"])
    assert len(done.history) == 3  # patience ended it
    assert torch.equal(done.network.state_dict()["head.weight"], fitted.network.state_dict()["head.weight"])


def test_progress_is_told_and_threads_are_given_back(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = arrays[0][:64], arrays[1][:64]
    calls: list[tuple[int, int]] = []
    before = torch.get_num_threads()
    recipe = Recipe(epochs=2, patience=5, batch_size=32, learning_rate=1e-3, seed=0, threads=1)
    fit(networks.seeded(1, 10, 24, 0), (x, y), (x, y), recipe, lambda epoch, epochs, _: calls.append((epoch, epochs)))
    assert calls == [(1, 2), (2, 2)]
    assert torch.get_num_threads() == before


def test_augmentation_moves_and_mirrors_but_invents_nothing() -> None:
    image = torch.zeros(1, 24, 24, 1, dtype=torch.uint8)
    image[0, 8:16, 4:8] = 1  # left of the middle
    many, draws = image.repeat(64, 1, 1, 1), torch.rand(64, DRAWS, generator=torch.Generator().manual_seed(0))
    moved = light(many, draws, flips=False)
    assert moved.shape == many.shape
    assert moved.sum((1, 2, 3)).tolist() == [32] * 64
    assert len(moved.unique(dim=0)) > 10
    assert not moved[:, :, 12:].any()
    mirrored = light(many, draws, flips=True)
    share = mirrored[:, :, 12:].flatten(1).any(1).float().mean()
    assert 0.25 < share < 0.75
    assert torch.equal(light(many[1::2], draws[1::2], flips=True), mirrored[1::2])


def test_some_steps_are_told_few_and_evenly_spread_and_again_after_a_kill(
    arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    x, y = arrays
    recipe = Recipe(epochs=5, patience=9, batch_size=2, learning_rate=1e-3, seed=0)
    checkpoint = Checkpoint(tmp_path / "state.pt", "this one", 0.05)
    samples, judges = (x[:120], y[:120]), (x[300:320], y[300:320])

    class KilledError(Exception):
        pass

    def killed(epoch: int, *_: object) -> None:
        if epoch == 3:
            raise KilledError

    reports: list[tuple[int, dict[str, float]]] = []
    with pytest.raises(KilledError):
        fit(networks.seeded(1, 10, 24, 0), samples, judges, recipe, killed, checkpoint=checkpoint)
    assert checkpoint.read() is not None
    done = fit(
        networks.seeded(1, 10, 24, 0),
        samples,
        judges,
        recipe,
        on_step=lambda step, metrics: reports.append((step, metrics)),
        checkpoint=checkpoint,
    )
    steps = [step for step, _ in reports]
    assert steps == list(range(1, 301, 2)), "300 steps, at most 200 points"
    assert [point["loss"] for point in done.points] == [metrics["step_loss"] for _, metrics in reports]
    assert done.points[-1]["epoch"] == pytest.approx(299 / 60)
    assert done.points[-1]["learning_rate"] < done.points[30]["learning_rate"]
