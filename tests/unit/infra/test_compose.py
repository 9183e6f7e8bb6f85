"""The compose file and what belongs to it, read and not run: pins, secrets, ports, and the settings it hands out."""

import re
import stat
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra import compose
from infra.docker import init, metadata
from infra.local import airflow, layout
from ml.errors import InvalidInputError
from ml.settings import PREFIX, Settings

REPO = layout.REPO
DOCKER = REPO / "infra" / "docker"
FILE = yaml.safe_load((REPO / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::?[-?](?P<rest>[^}]*))?\}")


def _environment(name: str) -> dict[str, str]:
    return {k: str(v) for k, v in SERVICES[name].get("environment", {}).items()}


def test_only_what_both_composes_know_stands_at_the_top() -> None:
    assert {key for key in FILE if not key.startswith("x-")} == {"services", "volumes"}


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_checked_restarted_pinned_and_its_log_bounded(name: str) -> None:
    service = SERVICES[name]
    if name == "init":
        assert service["restart"] == "no"
    else:
        assert service["restart"] == "unless-stopped"
        assert "healthcheck" in service
    assert service["logging"]["options"]["max-size"]
    built = {s["image"] for s in SERVICES.values() if "build" in s}
    assert service["image"] in built or re.search(r":[\w.-]*\d+[.-]\d+", service["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_data_lies_in_declared_volumes_and_ports_are_open_on_this_machine_only(name: str) -> None:
    service = SERVICES[name]
    assert {v.split(":")[0] for v in service.get("volumes", [])} <= FILE["volumes"].keys()
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_published_ports_are_those_of_the_local_stack() -> None:
    published = {}
    for service in SERVICES.values():
        for port in service.get("ports", []):
            match = _VARIABLE.search(port)
            assert match, port
            published[match["name"].removeprefix("EVERGREEN_PORT_").lower()] = int(match["rest"])
    assert published == layout.PORTS


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_is_written_down(name: str) -> None:
    for variable, value in _environment(name).items():
        if re.search(r"PASSWORD$|SECRET|_KEY$", variable) and "ACCESS_KEY_ID" not in variable:
            assert _VARIABLE.fullmatch(value) or value == "evergreen", variable
        password = re.search(r"://[^:/@]+:([^@]+)@", value)
        assert not password or _VARIABLE.fullmatch(password[1]), variable


def test_every_variable_has_a_default_or_is_made_for_the_env_file(tmp_path: Path) -> None:
    environment = compose.ensure_env(tmp_path)
    text = (REPO / "docker-compose.yml").read_text()
    needed = {m["name"] for m in _VARIABLE.finditer(text) if f"{m['name']}:-" not in m[0]}
    assert needed == environment.keys()
    example = (REPO / ".env.example").read_text()
    assert {line.split("=")[0] for line in example.splitlines() if not line.startswith("#")} == environment.keys()


@pytest.mark.parametrize("name", [n for n in SERVICES if n.startswith(("airflow", "init", "service"))])
def test_the_settings_handed_out_are_settings(name: str) -> None:
    filled = {k: _VARIABLE.sub("1234", v) for k, v in _environment(name).items()}
    settings = Settings.load({PREFIX + "HOME": "/nowhere", **filled})
    assert settings.s3_endpoint == "http://minio:9000"
    assert settings.database_url.get_secret_value() == "postgresql+psycopg2://evergreen:1234@postgres:5432/evergreen"


def test_airflow_is_set_up_as_in_the_local_stack(tmp_path: Path) -> None:
    local = airflow.environment(layout.prepare(tmp_path, {}))
    here = _environment("airflow-scheduler")
    differing = r"URL|CONN|FOLDER|FILE$|_KEY$|SECRET|^AIRFLOW_HOME$|^PYTHONPATH$"
    assert {k for k in local if k.startswith("AIRFLOW__")} == {k for k in here if k.startswith("AIRFLOW__")}
    same = {k: v for k, v in local.items() if not re.search(differing, k)}
    assert {k: here.get(k) for k in same} == same


def test_init_gets_everything_it_insists_on_and_names_what_is_blank() -> None:
    assert set(init._REQUIRED) <= _environment("init").keys()
    with pytest.raises(InvalidInputError, match="MLFLOW_DB_PASSWORD"):
        init._require_variables({**dict.fromkeys(init._REQUIRED, "x"), "MLFLOW_DB_PASSWORD": ""})


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.stem)
def test_images_are_pinned_run_as_nobody_special_and_find_what_they_copy(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert {line.split()[1] for line in lines if line.startswith("FROM")} == {"python:3.11-slim-bookworm"}
    last_stage = lines[max(i for i, line in enumerate(lines) if line.startswith("FROM")) :]
    assert "USER evergreen" in last_stage
    copied = [source for line in last_stage if line.startswith("COPY infra") for source in line.split()[1:-1]]
    assert copied
    assert not [source for source in copied if "infra/docker/wheels/x.whl".startswith(f"{source}/")], "nor the wheels"
    ignored = (REPO / ".dockerignore").read_text().splitlines()
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert list(REPO.glob(source)), source
                assert f"!{source.split('/')[0]}" in ignored
                assert source not in ignored


def test_the_services_image_is_light_and_no_lock_names_an_index() -> None:
    service = (DOCKER / "service.lock").read_text()
    assert not re.search(r"^(torch|torchvision|mlflow|apache-airflow|pandas)\b", service, re.MULTILINE)
    assert re.search(r"^apache-airflow==", (DOCKER / "pipeline.lock").read_text(), re.MULTILINE)
    for lock in DOCKER.glob("*.lock"):
        assert not re.search(r"^--|https?://", lock.read_text(), re.MULTILINE)


def test_an_image_names_its_code_as_its_packages_version(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "evergreen"\nversion = "0.1.0"\n')
    assert metadata.write(tmp_path, "0a1b2c-dirty") == "0.1.0+0a1b2c.dirty"
    assert metadata.write(tmp_path, "") == "0.1.0+unknown"
    versions = {d.version for d in distributions(name="evergreen", path=[str(tmp_path)])}
    assert versions == {"0.1.0+0a1b2c.dirty", "0.1.0+unknown"}


def test_the_env_file_keeps_what_it_has_and_gets_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("S3_SECRET_KEY=mine\nMLFLOW_DB_PASSWORD=\nEVERGREEN_PORT_SERVICE=1234\n")
    environment = compose.ensure_env(tmp_path)
    assert environment["S3_SECRET_KEY"] == "mine"
    assert environment["EVERGREEN_PORT_SERVICE"] == "1234"
    assert len(environment["MLFLOW_DB_PASSWORD"]) > 20
    assert compose.ensure_env(tmp_path) == environment
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_host_sees_the_published_ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = compose.ensure_env(tmp_path) | {"EVERGREEN_PORT_S3": "1111", "EVERGREEN_PORT_SERVICE": "2222"}
    for part in layout.PORTS:
        monkeypatch.delenv(f"EVERGREEN_PORT_{part.upper()}", raising=False)
    monkeypatch.setenv("EVERGREEN_PORT_SERVICE", "3333")
    settings = Settings.load(compose.host_environment(tmp_path, environment))
    assert settings.s3_endpoint == "http://127.0.0.1:1111"
    assert settings.service_url == "http://127.0.0.1:3333"
    monkeypatch.setenv("EVERGREEN_PORT_SERVICE", "https")
    with pytest.raises(InvalidInputError, match="received 'https'"):
        compose.host_environment(tmp_path, environment)
