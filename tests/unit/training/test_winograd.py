"""The cheaper convolution gives what a direct one gives, and trainings without bf16 use it with the same weights."""

import copy
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ml.training.loop import placement
from ml.training.loop.fit import fit
from ml.training.loop.placement import Placement
from ml.training.loop.recipe import Recipe
from ml.training.network import networks, shared_norm, winograd


def results(layer: nn.Conv2d, images: Tensor, above: Tensor) -> list[Tensor]:
    """Outputs and the gradients of images, weights and bias."""
    inputs = [images, *layer.parameters()]
    outputs = layer(images)
    return [outputs.detach(), *torch.autograd.grad(outputs, inputs, above)]


@pytest.mark.parametrize("side", [2, 3, 4, 5, 6, 7, 8, 9])
@pytest.mark.parametrize("bias", [True, False])
def test_results_and_gradients_are_those_of_a_direct_convolution(side: int, bias: bool) -> None:
    generator = torch.Generator().manual_seed(side)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        direct = nn.Conv2d(24, 40, 3, padding=1, bias=bias)
    images = torch.randn(5, 24, side, side, generator=generator).contiguous(memory_format=torch.channels_last)
    above = torch.randn(5, 40, side, side, generator=generator)
    exact = results(copy.deepcopy(direct).double(), images.double().requires_grad_(), above.double())
    quick = winograd.convert(nn.Sequential(direct)).get_submodule("0").train()
    assert type(quick) is winograd.SmallMapConv2d
    for one, other in zip(results(quick, images.requires_grad_(), above), exact, strict=True):
        assert (one - other).norm() < 1e-4 * other.norm(), "bf16 loses 30 times as much"


def test_answers_outside_of_training_are_the_plain_convolutions_bit_for_bit() -> None:
    network = networks.seeded(3, 10, 32, 0).eval()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(winograd.convert(copy.deepcopy(network)).eval()(images), network(images))


def test_names_weights_and_what_is_frozen_stay() -> None:
    plain = networks.build("small_cnn", 1, 10, 24, 0, (0, 1))
    quick = winograd.convert(copy.deepcopy(plain))
    assert sum(isinstance(layer, winograd.SmallMapConv2d) for layer in quick.modules()) == 4
    for (name, one), (other_name, other) in zip(plain.named_parameters(), quick.named_parameters(), strict=True):
        assert name == other_name
        assert torch.equal(one, other)
        assert one.requires_grad == other.requires_grad


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(8, 8, 3, padding=1, stride=2),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(8, 8, 3, padding="same"),
        nn.Conv2d(8, 8, 5, padding=2),
        nn.Conv2d(512, 512, 3, padding=1),
    ],
)
def test_other_convolutions_stay_as_they_are(layer: nn.Conv2d) -> None:
    assert winograd.convert(nn.Sequential(layer)).get_submodule("0") is layer


def test_maps_that_are_no_squares_are_convolved_directly() -> None:
    layer = nn.Conv2d(8, 8, 3, padding=1)
    images = torch.randn(2, 8, 4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(winograd.convert(nn.Sequential(layer)).train()(images), layer(images))


def test_a_training_without_bf16_uses_it_and_gives_back_the_network_it_was_given() -> None:
    generator = np.random.default_rng(0)
    y = np.arange(64) % 2
    x = generator.integers(0, 100, (64, 24, 24, 1), np.uint8) + (y * 100).astype(np.uint8)[:, None, None, None]
    recipe = Recipe(epochs=3, patience=3, batch_size=32, learning_rate=1e-3, seed=0)
    used: list[int] = []
    forward = winograd.SmallMapConv2d.forward

    def counted(self: winograd.SmallMapConv2d, images: Tensor) -> Tensor:
        used.append(self.training)
        return forward(self, images)

    losses = []
    for quick in (True, False):
        network = networks.seeded(1, 2, 24, 0)
        with (
            patch.object(Placement, "bf16_pays", lambda self: False),
            patch.object(winograd, "_POINTS", winograd._POINTS if quick else {}),
            patch.object(winograd.SmallMapConv2d, "forward", counted),
        ):
            done = fit(network, (x, y), (x, y), recipe)
        assert done.network is network
        assert not any(isinstance(layer, winograd.SmallMapConv2d) for layer in network.modules())
        losses.append([row["train_loss"] for row in done.history])
    assert any(used)
    assert losses[0] == pytest.approx(losses[1], rel=0.02), "only rounding differs"


def test_a_shared_batch_norm_and_the_cheaper_convolution_go_together() -> None:
    network = winograd.convert(shared_norm.convert(networks.seeded(1, 2, 24, 0)))
    kinds = {type(layer) for layer in network.modules()}
    assert {winograd.SmallMapConv2d, shared_norm.SharedBatchNorm} <= kinds


@pytest.mark.parametrize(
    ("features", "pays"),
    [({"avx2", "avx512_bf16"}, True), ({"avx2", "avx512f"}, False), ({"bf16"}, True), (set(), False)],
)
def test_bf16_needs_instructions_that_pytorch_may_use(
    features: set[str], pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ml.models.cpu.features", lambda library: frozenset(features) if library == "torch" else frozenset()
    )
    assert placement.SINGLE_PROCESS.bf16_pays() is pays
