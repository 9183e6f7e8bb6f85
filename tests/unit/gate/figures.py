"""Figures of a comparison made by hand, as `ml.gate.evidence` gives them."""

from dataclasses import asdict
from typing import Any

import numpy as np

from ml.gate import metrics, statistics


def pair(better: int, worse: int, both: int, neither: int = 0) -> tuple[statistics.Right, statistics.Right]:
    """Champion's and challenger's answers: right in one only, in both, in neither."""
    counts = [better, worse, both, neither]
    return np.repeat([False, True, True, False], counts), np.repeat([True, False, True, False], counts)


def figures(
    champion: statistics.Right, challenger: statistics.Right, level: float = 0.05, **more: Any
) -> dict[str, Any]:
    """What the policy reads; a look on all samples, at `level`."""
    comparison = statistics.compare(champion, challenger, seed=0, rounds=50)
    n = len(champion)
    gain = metrics.Gain(
        comparison.champion_accuracy, comparison.challenger_accuracy, comparison.difference, comparison.p_value
    )
    spent = {
        "number": 1, "after": 0, "samples": n, "looks_before": 0, "events_before": 0, "alpha": 0.05, "level": level,
        "left": 0.05 - level, "metric": "accuracy", "metric_words": "accuracy", "gain": asdict(gain),
        "disagreement": float((champion != challenger).mean()), "detectable": 0.03, "wanted": 0.02,
        "fresh_needed": 0, "labels_needed": 0,
    }  # fmt: skip
    return {
        **asdict(comparison),
        "holdout": n,
        "groups": [],
        "calibration_rise": 0.0,
        "calibration_rise_least": 0.0,
        "lost_classes": [],
        "new_classes": [],
        "served": {"milliseconds": 2.0, "bytes": 1000},
        "budget": spent,
    } | more
