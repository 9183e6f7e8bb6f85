"""A model names the code that made it, wherever that code lies."""

import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from ml.training.tracking.lineage import code_version

PACKAGE = f"evergreen-{version('evergreen')}"


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A committed file in a repository."""
    git(tmp_path, "init", "--quiet")
    file = tmp_path / "code.py"
    file.write_text("1\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "--quiet", "-m", "one")
    git(tmp_path, "tag", "v1")
    return file


def test_a_checkout_gives_its_revision_and_says_when_it_was_changed(checkout: Path) -> None:
    revision = git(checkout.parent, "rev-parse", "HEAD")
    assert code_version(checkout) == revision
    checkout.write_text("2\n")
    assert code_version(checkout) == f"{revision}-dirty"


def test_a_package_below_somebody_elses_checkout_gives_its_own_version(checkout: Path) -> None:
    stranger = checkout.parent / "site-packages" / "code.py"
    stranger.parent.mkdir()
    stranger.write_text("1\n")
    assert code_version(stranger) == PACKAGE


def test_without_a_checkout_or_without_git_the_package_version_stands(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert code_version(tmp_path_factory.mktemp("nowhere") / "code.py") == PACKAGE
    monkeypatch.setenv("PATH", "")
    assert code_version(checkout) == PACKAGE
