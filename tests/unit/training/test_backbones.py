"""torchvision's networks behind the loop's contract: groups, freezing, sizes, grey, the exported graph."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ml.errors import InvalidInputError
from ml.models import model
from ml.settings import Settings
from ml.training import export
from ml.training.loop.fit import compute_logits, fit
from ml.training.loop.recipe import Recipe
from ml.training.network import backbones, networks, shared_norm
from tests.unit.training.test_fit_and_export import info

RECIPE = Recipe(epochs=2, patience=5, batch_size=16, learning_rate=1e-3, seed=0)


def striped(count: int, side: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Dark and bright images with noise."""
    generator = np.random.default_rng(0)
    y = np.arange(count) % 2
    noise = generator.integers(0, 100, (count, side, side, channels), np.uint8)
    return noise + (y * 120).astype(np.uint8)[:, None, None, None], y


@pytest.mark.parametrize("name", backbones.NAMES)
def test_every_architecture_is_built_and_its_layers_are_grouped(name: str) -> None:
    network = networks.build(name, 3, 5, backbones.sides(name)[0], 0, (0, 0.1, 1))
    groups = networks.groups(network)
    assert [g.factor for g in groups] == [0, 0.1, 1]
    parameters = [p for g in groups for p in g.parameters]
    assert len(parameters) == len({id(p) for p in parameters}) == len(list(network.parameters()))
    assert all(len(g.parameters) > 1 for g in groups)
    assert {p.requires_grad for p in groups[0].parameters} == {False}
    assert {p.requires_grad for p in groups[1].parameters + groups[2].parameters} == {True}
    assert groups[2].parameters[0].shape[0] == 5


def test_one_rate_is_for_all_and_the_same_seed_gives_the_same_network() -> None:
    one, two = (networks.build("mobilenet_v3_small", 3, 4, 64, 7) for _ in range(2))
    assert [g.name for g in networks.groups(one)] == ["all"]
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name


def test_more_rates_than_blocks_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="at most"):
        networks.build("small_cnn", 1, 2, 24, 0, tuple([0.5] * 40))


def test_an_unknown_architecture_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidInputError, match="small_cnn, mobilenet_v2"):
        networks.build("alexnet", 3, 2, 64, 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("ARCHITECTURE", "alexnet"), ("LAYER_RATES", "0.1,-1"), ("LAYER_RATES", "slow"), ("SERVICE_VARIANT", "int4")],
)
def test_settings_of_no_use_are_refused_at_the_start(name: str, value: str) -> None:
    with pytest.raises(InvalidInputError, match=f"EVERGREEN_{name}"):
        Settings.load({f"EVERGREEN_{name}": value})


@pytest.mark.parametrize(("name", "side"), [("vit_b_16", 100), ("vgg16", 96), ("resnet18", 24)])
def test_a_side_it_cannot_take_is_refused(name: str, side: int) -> None:
    with pytest.raises(InvalidInputError, match=f"received {side}"):
        networks.build(name, 3, 2, side, 0)


@pytest.mark.parametrize(
    ("name", "channels", "rates"),
    [("mobilenet_v2", 1, (0, 1)), ("resnet18", 3, (1,)), ("convnext_tiny", 3, (0.0, 1))],
)
def test_it_learns_and_its_bundle_answers_as_it_does(
    name: str, channels: int, rates: tuple[float, ...], tmp_path: Path
) -> None:
    x, y = striped(32, 32, channels)
    network = networks.build(name, channels, 2, 32, 0, rates)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    done = fit(network, (x, y), (x, y), RECIPE)
    assert done.history[-1]["train_loss"] < done.history[0]["train_loss"] + 0.1
    moved = {k for k, v in done.network.state_dict().items() if not torch.equal(v, before[k])}
    assert "head.weight" in moved
    assert any(k.startswith("body.") for k in moved) == (rates[0] > 0), "frozen layers and their statistics stay"
    export.export(network, info(labels=("a", "b"), image_size=32, channels=channels), x, tmp_path)
    expected = torch.softmax(compute_logits(network, x[:5]), 1).numpy()
    assert model.load(tmp_path).predict(x[:5]) == pytest.approx(expected, abs=1e-4)


def test_the_body_sees_imagenets_normalisation() -> None:
    network = networks.build("resnet18", 3, 2, 32, 0)
    seen: list[torch.Tensor] = []
    network.get_submodule("body").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    compute_logits(network, pixels)
    scaled = (pixels / 255 - np.asarray([0.485, 0.456, 0.406])) / np.asarray([0.229, 0.224, 0.225])
    assert seen[0].numpy() == pytest.approx(scaled.transpose(0, 3, 1, 2), abs=1e-5)


def test_the_head_grows_as_the_small_networks_does() -> None:
    old, new = ("a", "c"), ("a", "b", "c")
    before, grown = networks.build("resnet18", 3, 2, 32, 1), networks.build("resnet18", 3, 3, 32, 2)
    networks.carry_head(grown, before.state_dict(), old, new)
    old_head, new_head = (network.state_dict()["head.weight"] for network in (before, grown))
    for label in old:
        assert torch.equal(new_head[new.index(label)], old_head[old.index(label)])


def test_layers_stay_frozen_when_processes_share_their_batch_norm() -> None:
    network = shared_norm.convert(networks.build("resnet18", 3, 2, 32, 0, (0, 1))).train()
    norms = [m for m in network.modules() if isinstance(m, shared_norm.SharedBatchNorm)]
    assert norms
    assert not any(m.training or m.weight.requires_grad or m.bias.requires_grad for m in norms)
