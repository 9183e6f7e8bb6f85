"""A refresh costs what is new, not what is stored: cycles with 1,000 new images on 5,000 and on 50,000 of CIFAR-10.

Whole cycles (intake, training, gate, release without a replica; real Postgres, S3 and MLflow), the same drops to
the one system and to the other in turns. `scale_ratio` is the median over the drops of seconds on 50,000 stored
divided by seconds on 5,000; processor time is of the process that runs the cycle. Nothing stops a training early, so
both sides learn for the same number of epochs.
"""

from typing import Any

from tests.bench.parts import refresh


def run() -> dict[str, Any]:
    """Ratios, and the seconds they are made of."""
    try:
        return {"runs": refresh.PAIRS, "figures": refresh.figures()}
    except FileNotFoundError as error:
        raise SystemExit(f"nothing to measure: {error}") from None
