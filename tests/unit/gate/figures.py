"""Figures of a comparison made by hand, as `ml.gate.evidence` gives them."""

from dataclasses import asdict
from typing import Any

import numpy as np

from ml.gate import metrics, statistics
from ml.gate.lead import lead
from ml.gate.metrics import PerSample
from ml.gate.policy import Policy

UNCHANGED: dict[str, Any] = {
    "reference": None, "changed": 0, "share": 0.0, "applied": 0, "by": [], "applied_by": [], "samples": [],
    "right_before": {"champion": 0, "challenger": 0}, "right_after": {"champion": 0, "challenger": 0},
    "brier_before": {"champion": None, "challenger": None}, "brier_after": {"champion": None, "challenger": None},
    "accuracy_after": {"champion": 0.5, "challenger": 0.5},
}  # fmt: skip
"""No label of the holdout was changed."""


def pair(better: int, worse: int, both: int, neither: int = 0) -> tuple[statistics.Right, statistics.Right]:
    """Champion's and challenger's answers: right in one only, in both, in neither."""
    counts = [better, worse, both, neither]
    return np.repeat([False, True, True, False], counts), np.repeat([True, False, True, False], counts)


def differences(champion: statistics.Right, challenger: statistics.Right) -> PerSample:
    """Of accuracy, on all samples."""
    n = len(champion)
    return PerSample(np.ones(n, np.bool_), challenger.astype(float) - champion, 1.0, np.ones(n))


def figures(
    champion: statistics.Right, challenger: statistics.Right, level: float = 0.05, **more: Any
) -> dict[str, Any]:
    """What the policy reads; a look on all samples, at `level`. Brier scores follow half of each gain and loss."""
    comparison = statistics.compare(champion, challenger, seed=0, rounds=50)
    n, of = len(champion), differences(champion, challenger)
    gain = metrics.Gain(
        comparison.champion_accuracy, comparison.challenger_accuracy, comparison.difference, comparison.p_value
    )
    ahead = asdict(lead(of, 0.5 * of.differences, 0.05))
    spent = {
        "number": 1, "after": 0, "samples": n, "looks_before": 0, "events_before": 0, "alpha": 0.05, "level": level,
        "metric": "accuracy", "metric_words": "accuracy", "gain": asdict(gain),
        "disagreement": float((champion != challenger).mean()), "detectable": 0.03, "wanted": 0.02,
        "fresh_needed": 0, "labels_needed": 0, "stated_margin": 0.01, "labels_for_margin": 0,
    }  # fmt: skip
    return {
        **asdict(comparison),
        "holdout": n,
        "holdout_samples": n,
        "relabelled": UNCHANGED,
        "holdout_share": 0.2,
        "rules": asdict(Policy()),
        "groups": [],
        "calibration_rise": 0.0,
        "calibration_rise_least": 0.0,
        "lost_classes": [],
        "new_classes": [],
        "new_class_answers": {"samples": 0, "right": 0, "sampled": 0, "unknown": 0},
        "served": {"milliseconds": 2.0, "bytes": 1000},
        "lead": ahead,
        "incumbents": [{"version": 5, "role": "champion"} | ahead],
        "best_so_far": 5,
        "budget": spent,
    } | more
