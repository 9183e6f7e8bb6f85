"""S3 credentials that are not configured: boto3 finds and renews them, for every client."""

import json
import stat
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ml.errors import InvalidInputError, UnavailableError
from ml.settings import Settings
from ml.storage import object_store
from tests.servers import PASSWORD, Servers

SOURCES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")


@pytest.fixture
def unconfigured(servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings without keys, on a machine where boto3 finds none either."""
    for name in SOURCES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    settings = servers.settings(tmp_path / "home")
    return settings.model_copy(update={"s3_access_key": "", "s3_secret_key": type(settings.s3_secret_key)("")})


def test_keys_of_the_environment_serve_all_reads_and_writes(
    unconfigured: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "evergreen")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PASSWORD)
    store = object_store.connect(unconfigured, unconfigured.store_bucket)
    store.put("a/1", b"one")
    assert store.get("a/1") == b"one"
    assert list(store.get_many(["a/1"])) == [b"one"]
    assert store._bulk_reader is not None
    assert store._bulk_reader.get("a/1") == b"one"
    assert [listed.key for listed in store.list("a/")] == ["a/1"]


def test_temporary_keys_are_renewed(unconfigured: Settings, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    soon = (datetime.now(UTC) + timedelta(minutes=9)).isoformat()  # botocore renews what ends within ten minutes
    keys = {"Version": 1, "AccessKeyId": "evergreen", "SecretAccessKey": PASSWORD, "Expiration": soon}
    program = tmp_path / "keys.py"
    program.write_text(f"#!{sys.executable}\nopen({str(calls)!r}, 'a').write('x')\nprint({json.dumps(keys)!r})\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {program}\n")
    store = object_store.connect(unconfigured, unconfigured.store_bucket, tries=1)
    store.put("a/1", b"one")
    calls.unlink()
    assert store.get("a/1") == b"one"
    assert calls.exists()
    program.write_text(f"#!{sys.executable}\nraise SystemExit('the token service is away')\n")
    with pytest.raises(UnavailableError, match="cannot be renewed"):
        store.get("a/1")


def test_without_any_keys_the_error_says_where_they_are_looked_for(unconfigured: Settings) -> None:
    with pytest.raises(InvalidInputError, match=r"EVERGREEN_S3_ACCESS_KEY is empty.*AWS_PROFILE"):
        object_store.connect(unconfigured, unconfigured.store_bucket)


def test_a_key_without_its_secret_is_refused(unconfigured: Settings) -> None:
    with pytest.raises(InvalidInputError, match="EVERGREEN_S3_SECRET_KEY"):
        object_store.connect(unconfigured.model_copy(update={"s3_access_key": "evergreen"}), "any")
