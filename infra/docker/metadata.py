"""Lets an image know which code it holds: package metadata whose version ends with the revision.

`python -m infra.docker.metadata REVISION`, in the folder that holds the code and is on the path.
"""

import re
import sys
import tomllib
from pathlib import Path


def write(folder: Path, revision: str) -> str:
    """Make `evergreen-VERSION.dist-info` in `folder`; the version, `0.1.0+<revision>` with the project's in front.

    Args:
        folder: holds `pyproject.toml`.
        revision: any words; a version may only hold letters, digits and dots after its plus.
    """
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    label = re.sub(r"[^a-z0-9]+", ".", revision.lower()).strip(".") or "unknown"
    version = f"{project['version']}+{label}"
    info = folder / f"{project['name']}-{version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {version}\n")
    return version


if __name__ == "__main__":
    write(Path.cwd(), sys.argv[1])
