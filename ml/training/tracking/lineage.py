"""Which code made a model, and among which packages."""

import platform
import subprocess
from functools import cache
from importlib.metadata import distributions, version
from pathlib import Path


def code_version(file: Path = Path(__file__)) -> str:
    """The git revision of the checkout that `file` belongs to, with `-dirty` if it differs from it.

    Outside a checkout (an installed package, a container) the package's version.
    """
    folder = str(file.resolve().parent)
    # An installed package may lie below somebody else's checkout, hence the question for the file itself.
    if _git(folder, "ls-files", "--error-unmatch", file.name) is None:
        return f"evergreen-{version('evergreen')}"
    revision = _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    return revision or f"evergreen-{version('evergreen')}"


def _git(folder: str, *arguments: str) -> str | None:
    command = ["git", "-C", folder, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@cache
def environment() -> str:
    """Interpreter, system and every installed package with its version, a line each."""
    packages = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()}, key=str.lower)
    system = (f"# Python {platform.python_version()}", f"# {platform.platform()}")
    return "\n".join((*system, *packages)) + "\n"
