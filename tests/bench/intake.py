"""Intake: CIFAR-10's 50,000 training images as one drop, from the marker to the dataset version.

The limit is what this machine reaches on get, SHA-256, decode and hashes alone, with the fastest client
and a process a core, the S3 server on the same cores. Intake is everything: claim, inspection in a task a core,
Great Expectations, segments, commit. `share_of_limit` is the limit's seconds over the intake's.

`catalogue_scale_ratio`: the same drops of 1,000 images go into a catalogue of ten thousand and into one of ten
million synthetic samples with the real indexes, in turns; the ratio of their seconds. `snapshot_10m_seconds`: listing
versions, comparing two, making the next and counting every class and split, over ten million samples.
"""

from collections.abc import Callable
from typing import Any, Final

from tests.bench.parts import catalogue, cifar, snapshot

PARTS: Final[tuple[Callable[[], dict[str, Any]], ...]] = (cifar.figures, catalogue.figures, snapshot.figures)
"""Each gives figures by name, which are shown as one table and kept as one file."""


def run() -> dict[str, Any]:
    """Figures of all parts; a part whose data is not there is left out and named."""
    figures: dict[str, Any] = {}
    left_out: list[str] = []
    for part in PARTS:
        try:
            figures |= part()
        except FileNotFoundError as error:
            left_out.append(str(error))
    if not figures:
        raise SystemExit("nothing to measure:\n  " + "\n  ".join(left_out))
    return {"runs": cifar.RUNS, "figures": figures, "left_out": left_out}
