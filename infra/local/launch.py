"""Becomes a part of the stack: reads its command and environment from a private file, then executes it.

supervisord's own way to give an environment cannot carry every value, and command lines can be read
by everyone on the machine.
"""

import json
import os
import sys
from pathlib import Path


def main(path: Path) -> None:
    """`path` holds {"command": […], "environment": {…}}; does not return."""
    told = json.loads(path.read_bytes())
    os.execvpe(told["command"][0], told["command"], {**os.environ, **told["environment"]})  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(Path(sys.argv[1]))
