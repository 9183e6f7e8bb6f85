"""Pretrained weights are found, proven and put in, or the error says what to do."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ml.errors import IntegrityError, InvalidInputError, NotFoundError, UnavailableError
from ml.settings import Settings
from ml.training.network import networks, vision, weights

NAME = "mobilenet_v3_small"


def ask(tmp_path: Path, location: object, architecture: str = NAME) -> Any:
    settings = Settings(home=tmp_path, weights=str(location), architecture=architecture)
    return weights.pretrained(SimpleNamespace(settings=settings))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def original() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    state: dict[str, torch.Tensor] = vision.load().models.get_model(NAME).state_dict()
    return state


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_torchvisions_layout_fills_the_body_and_leaves_the_head(
    original: dict[str, torch.Tensor], tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"mine.{suffix}"
    torch.save(original, path) if suffix == "pth" else save_file(original, path)
    pretrained = ask(tmp_path, path)
    network = networks.build(NAME, 1, 3, 64, 0)
    head = network.state_dict()["head.weight"].clone()
    pretrained.load_into(network)
    assert torch.equal(network.state_dict()["body.features.0.0.weight"], original["features.0.0.weight"])
    assert torch.equal(network.state_dict()["head.weight"], head)
    assert pretrained.source.startswith(f"mine.{suffix} (SHA-256 ")


@pytest.mark.parametrize("architecture", [NAME, "small_cnn"])
def test_a_bundles_weights_can_be_started_from(tmp_path: Path, architecture: str) -> None:
    before = networks.build(architecture, 3, 7, 64, 1).state_dict()
    save_file(before, tmp_path / "weights.safetensors")
    network = networks.build(architecture, 3, 2, 64, 2)
    ask(tmp_path, tmp_path / "weights.safetensors", architecture).load_into(network)
    after = network.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before if not k.startswith("head."))


def test_places_of_a_transformer_are_resampled(tmp_path: Path) -> None:
    state = networks.build("vit_b_16", 3, 2, 64, 1).state_dict()
    pretrained = weights.Pretrained("vit_b_16", state, "test")
    network = networks.build("vit_b_16", 3, 2, 32, 2)
    pretrained.load_into(network)
    assert network.state_dict()["body.encoder.pos_embedding"].shape[1] == 1 + 4
    assert torch.equal(network.state_dict()["body.conv_proj.weight"], state["body.conv_proj.weight"])


def test_weights_of_another_architecture_are_refused(original: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(original, tmp_path / "mine.pth")
    pretrained = ask(tmp_path, tmp_path / "mine.pth", "resnet18")
    with pytest.raises(InvalidInputError, match="EVERGREEN_ARCHITECTURE"):
        pretrained.load_into(networks.build("resnet18", 3, 2, 64, 0))


class Trap:
    """Unpickling it would leave a trace."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"w": Trap(tmp_path / "sprung")}, tmp_path / "evil.pth")
    with pytest.raises(IntegrityError, match=r"evil\.pth"):
        ask(tmp_path, tmp_path / "evil.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
def test_broken_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(IntegrityError, match="broken"):
        ask(tmp_path, tmp_path / name)


def test_a_missing_file_says_what_may_be_said(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"none, torchvision, s3://"):
        ask(tmp_path, tmp_path / "nowhere.pth")


def test_a_pickle_in_a_bucket_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="save_file"):
        ask(tmp_path, "s3://models/mine.pth")


def test_the_small_network_has_nothing_of_torchvisions(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="EVERGREEN_WEIGHTS=none"):
        ask(tmp_path, "torchvision", "small_cnn")


def test_a_damaged_file_of_torchvisions_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "mobilenet_v3_small-047dcff4.pth").write_bytes(b"half of it")
    with pytest.raises(IntegrityError, match="delete it"):
        ask(tmp_path, "torchvision")


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/there" else 404)
            self.end_headers()
            self.wfile.write(b"weights")

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()


def test_a_download_is_kept_whole(server: str, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.pth"
    assert weights.download(f"{server}/there", target) == b"weights"
    assert [p.name for p in target.parent.iterdir()] == ["file.pth"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/there", None])
def test_without_network_the_error_says_where_the_file_belongs(server: str, tmp_path: Path, url: str | None) -> None:
    with pytest.raises(UnavailableError, match="put that file into") as caught:
        weights.download(url or f"{server}/gone", tmp_path / "file.pth", timeout=2)
    assert str(tmp_path) in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_rates_are_the_settings_or_slow_for_what_knows_much() -> None:
    assert weights.rates(Settings()) == (1.0,)
    assert weights.rates(Settings(weights="torchvision")) == (0.1, 1.0)
    assert weights.rates(Settings.load({"EVERGREEN_LAYER_RATES": "0, 0.3,1"})) == (0.0, 0.3, 1.0)
