"""The stack's folder: ports, secrets, settings."""

import socket
import stat
from pathlib import Path

import pytest
import yaml

from infra import compose
from infra.local import components, layout
from ml.errors import ConflictError, InvalidInputError
from ml.settings import Settings
from tests.servers import free_port


def test_secrets_are_made_once_and_only_the_owner_reads_them(tmp_path: Path) -> None:
    first = layout.prepare(tmp_path / "home", {})
    again = layout.prepare(tmp_path / "home", {})
    assert first.secrets == again.secrets
    for name in ("secrets.json", "evergreen.env", "stack.json"):
        assert stat.S_IMODE((tmp_path / "home" / name).stat().st_mode) == 0o600


def test_ports_chosen_at_the_first_start_are_kept(tmp_path: Path) -> None:
    layout.prepare(tmp_path, {"EVERGREEN_PORT_SERVICE": "12345"})
    assert layout.load(tmp_path).ports["service"] == 12345
    with pytest.raises(InvalidInputError, match="received 'no'"):
        layout.prepare(tmp_path, {"EVERGREEN_PORT_S3": "no"})


def test_every_taken_port_is_named_with_the_remedy(tmp_path: Path) -> None:
    with socket.socket() as one, socket.socket() as two:
        for taken in (one, two):
            taken.bind(("127.0.0.1", 0))
            taken.listen()
        ports = {"EVERGREEN_PORT_S3": str(one.getsockname()[1]), "EVERGREEN_PORT_MLFLOW": str(two.getsockname()[1])}
        others = {f"EVERGREEN_PORT_{p}": str(free_port()) for p in ("POSTGRES", "AIRFLOW", "SERVICE")}
        here = layout.prepare(tmp_path, ports | others)
        with pytest.raises(ConflictError) as error:
            layout.refuse_taken_ports(here)
    assert "(s3)" in str(error.value)
    assert "(mlflow)" in str(error.value)
    assert "EVERGREEN_PORT_MLFLOW=" in str(error.value)


def test_no_secret_stands_on_a_command_line(tmp_path: Path) -> None:
    here = layout.prepare(tmp_path, {})
    words = " ".join(word for part in components.all_parts(here) for word in part.command)
    assert not [name for name, secret in here.secrets.items() if secret in words]


def test_the_settings_file_is_read_and_the_environment_wins(tmp_path: Path) -> None:
    layout.prepare(tmp_path, {})
    settings = Settings.load({"EVERGREEN_HOME": str(tmp_path), "EVERGREEN_EPOCHS": "7", "EVERGREEN_PORT_S3": "1"})
    assert settings.epochs == 7
    assert ":15432/evergreen" in settings.database_url.get_secret_value()
    assert settings.s3_secret_key.get_secret_value() not in repr(settings)
    with pytest.raises(InvalidInputError, match="EVERGREEN_EPOCHS"):
        Settings.load({"EVERGREEN_EPOCHS": "many"})


def test_the_compose_file_has_no_secret_and_every_part_is_checked_and_restarted() -> None:
    text = (layout.REPO / "docker-compose.yml").read_text()
    services = yaml.safe_load(text)["services"]
    for name, service in services.items():
        if name == "init":
            continue
        assert "healthcheck" in service, name
        assert service["restart"] == "unless-stopped", name
        image = service["image"]
        assert ":" in image or "build" in services["init"] or "build" in service, name
        assert not image.endswith(":latest")
    for variable in compose._PASSWORDS:
        assert f"${{{variable}}}" in text


def test_the_env_file_of_compose_is_made_once(tmp_path: Path) -> None:
    first = compose.ensure_env(tmp_path)
    assert first == compose.ensure_env(tmp_path)
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    example = (layout.REPO / ".env.example").read_text()
    assert all(f"{name}=\n" in example for name in first)
