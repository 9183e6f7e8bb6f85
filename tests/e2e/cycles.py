"""The loop without Airflow: `python -m tests.e2e.cycles` runs a cycle for each drop that becomes ready."""

import os
import time

from ml.context import connect
from ml.intake.find import find_ready
from ml.pipeline import run_cycle
from ml.settings import Settings


def main() -> None:
    """Until it is ended."""
    ctx = connect(Settings.load(os.environ))
    while True:
        if find_ready(ctx):
            run_cycle(ctx, on_stage=lambda *_: None)
        time.sleep(0.2)


if __name__ == "__main__":
    main()
