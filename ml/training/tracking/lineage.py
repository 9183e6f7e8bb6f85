"""The code version and the installed packages that a model was trained with."""

import platform
import subprocess
from functools import cache
from importlib.metadata import distributions, version
from pathlib import Path


def code_version(file: Path = Path(__file__)) -> str:
    """The git revision of the checkout of `file`, with `-dirty` if there are changes.

    Outside a checkout (an installed package, a container) it is the package version.
    """
    folder = str(file.resolve().parent)
    # An installed package may be inside another project's checkout, so check that git tracks the file itself.
    if _git(folder, "ls-files", "--error-unmatch", file.name) is None:
        return f"evergreen-{version('evergreen')}"
    revision = _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    return revision or f"evergreen-{version('evergreen')}"


def _git(folder: str, *arguments: str) -> str | None:
    command = ["git", "-C", folder, *arguments]
    try:
        completed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return completed.stdout.strip() if completed.returncode == 0 else None


@cache
def environment() -> str:
    """Interpreter, system and every installed package with its version, one per line."""
    packages = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()}, key=str.lower)
    system = (f"# Python {platform.python_version()}", f"# {platform.platform()}")
    return "\n".join((*system, *packages)) + "\n"
