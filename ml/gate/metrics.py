"""The gate's metrics: accuracy, macro-F1, recall of a class, or cost; per-sample values and a paired test. Pure.

The null hypothesis is that, for each sample, the two models' predictions are exchangeable. For accuracy and recall
the test is the exact McNemar test; for the others a paired randomisation test (Fisher), by sampling.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ml.errors import InvalidInputError
from ml.gate import statistics

Labels = NDArray[np.int64]
_ROUNDS: Final = 20_000
_CHUNK: Final = 2_000_000  # random choices in memory at once


@dataclass(frozen=True)
class Metric:
    """`name` as in the setting `gate_metric`; `costs` true class → answered class → cost."""

    name: str
    costs: Mapping[str, Mapping[str, float]]

    @property
    def description(self) -> str:
        kind, _, class_name = self.name.partition(":")
        names = {"accuracy": "accuracy", "macro_f1": "macro-F1", "cost": "mean cost"}
        return names.get(kind, f"recall of {class_name}")


@dataclass(frozen=True)
class Gain:
    """Values of both models (cost is negated, so that higher is better), difference and one-sided p-value."""

    champion: float
    challenger: float
    difference: float
    p_value: float


def gain(
    metric: Metric, truth: Labels, champion: Labels, challenger: Labels, classes: Sequence[str], seed: int
) -> Gain:
    """Compare the predictions of two models on the same samples.

    Args:
        truth: ``int64[N]``, positions in `classes`.
        champion: ``int64[N]``, positions in `classes`; -1 for a class that is not among them.
        challenger: as `champion`.

    Raises:
        InvalidInputError: the metric names a class that does not exist.
    """
    kind, _, class_name = metric.name.partition(":")
    if kind == "recall":
        return _exact(truth == _position(class_name, classes), truth, champion, challenger)
    if kind == "accuracy":
        return _exact(np.ones(len(truth), np.bool_), truth, champion, challenger)
    if kind == "cost":
        table = _costs(metric.costs, classes)
        return _by_sum(-table[truth, champion], -table[truth, challenger], seed)
    return _by_f1(truth, champion, challenger, len(classes), seed)


@dataclass(frozen=True)
class PerSample:
    """Per-sample differences of the metric between two models; costs are shares of the highest cost.

    Attributes:
        counted: samples that the metric counts, ``bool[N]``.
        differences: challenger minus champion, ``float64[counted]``; positive is better.
        bound: largest possible difference, except for macro-F1, where it is the influence function.
        weights: of the counted samples, to weight classes equally, ``float64[counted]``, 1 on average.
    """

    counted: NDArray[np.bool_]
    differences: NDArray[np.float64]
    bound: float
    weights: NDArray[np.float64]


def per_sample(
    metric: Metric, truth: Labels, champion: Labels, challenger: Labels, classes: Sequence[str]
) -> PerSample:
    """The per-sample differences behind `gain`, with the same arguments.

    Macro-F1 is not a mean over samples; it is linearised at both models' predictions (influence function, Hampel,
    J. Am. Stat. Assoc. 69 (1974)), so results on it hold for many samples.

    Raises:
        InvalidInputError: the metric names a class that does not exist.
    """
    kind, _, class_name = metric.name.partition(":")
    all_samples = np.ones(len(truth), np.bool_)
    if kind == "macro_f1":
        differences = _f1_influence(truth, challenger, len(classes)) - _f1_influence(truth, champion, len(classes))
        support = np.bincount(truth, minlength=len(classes))
        weights = len(truth) / (np.count_nonzero(support) * support[truth])
        return PerSample(all_samples, differences, 1.0, weights)
    if kind == "cost":
        table = _costs(metric.costs, classes)
        differences = (table[truth, champion] - table[truth, challenger]) / np.ptp(table)
        return PerSample(all_samples, differences, 1.0, np.ones(len(truth)))
    counted = truth == _position(class_name, classes) if kind == "recall" else all_samples
    hits, hits_before = ((answers == truth)[counted].astype(np.float64) for answers in (challenger, champion))
    return PerSample(counted, hits - hits_before, 1.0, np.ones(len(hits)))


def macro_f1(truth: Labels, answers: Labels, classes: int) -> float:
    """Mean F1 of the classes that occur in `truth`."""
    hit = np.bincount(truth[truth == answers], minlength=classes)
    return float(_f1(hit, np.bincount(answers[answers >= 0], minlength=classes), np.bincount(truth, minlength=classes)))


def _f1_influence(truth: Labels, answers: Labels, classes: int) -> NDArray[np.float64]:
    """``float64[N]`` with the macro-F1 as mean and each sample's influence as deviation from it."""
    support = np.bincount(truth, minlength=classes)
    answered = np.bincount(answers[answers >= 0], minlength=classes)
    hit = np.bincount(truth[truth == answers], minlength=classes)
    present, total = support > 0, np.maximum(1, support + answered)
    f1 = np.where(present, 2 * hit / total, 0.0)
    scale = np.where(present, len(truth) / (np.count_nonzero(present) * total), 0.0)
    values = 2.0 * (truth == answers) * scale[truth] - f1[truth] * scale[truth]
    has_class = answers >= 0
    values[has_class] -= f1[answers[has_class]] * scale[answers[has_class]]
    mean: NDArray[np.float64] = values + f1[present].mean()
    return mean


def _exact(counted: NDArray[np.bool_], truth: Labels, champion: Labels, challenger: Labels) -> Gain:
    if not counted.any():
        return Gain(0.0, 0.0, 0.0, 1.0)
    before, after = (champion == truth)[counted], (challenger == truth)[counted]
    better, worse = int((after & ~before).sum()), int((before & ~after).sum())
    was, now = float(before.mean()), float(after.mean())
    return Gain(was, now, (better - worse) / int(counted.sum()), statistics.mcnemar(better, worse))


def _by_sum(before: NDArray[np.float64], after: NDArray[np.float64], seed: int) -> Gain:
    difference = after - before
    differing = difference[difference != 0]
    observed = float(differing.sum())
    at_least = 0
    for signs in _choices(len(differing), seed):
        at_least += int(((2.0 * signs - 1) @ differing >= observed - 1e-9).sum())
    p = (1 + at_least) / (1 + _ROUNDS)
    return Gain(float(before.mean()), float(after.mean()), float(difference.mean()), p)


def _by_f1(truth: Labels, champion: Labels, challenger: Labels, classes: int, seed: int) -> Gain:
    was, now = macro_f1(truth, champion, classes), macro_f1(truth, challenger, classes)
    support = np.bincount(truth, minlength=classes)
    differ = champion != challenger
    a, b, t = champion[differ], challenger[differ], truth[differ]
    hit = np.bincount(truth[~differ & (truth == champion)], minlength=classes)
    same = champion[~differ]
    answered = np.bincount(same[same >= 0], minlength=classes)
    names = np.arange(classes)
    hits_a, hits_b = ((x == t)[:, None] & (t[:, None] == names) for x in (a, b))
    predicted_a, predicted_b = (x[:, None] == names for x in (a, b))
    at_least = 0
    for swapped in _choices(len(t), seed):
        # float32 is exact for counts and has the fast matrix product.
        unswapped = (~swapped).astype(np.float32)
        swapped_weights = swapped.astype(np.float32)
        first = _f1(
            hit + unswapped @ hits_a + swapped_weights @ hits_b,
            answered + unswapped @ predicted_a + swapped_weights @ predicted_b,
            support,
        )
        second = _f1(
            hit + unswapped @ hits_b + swapped_weights @ hits_a,
            answered + unswapped @ predicted_b + swapped_weights @ predicted_a,
            support,
        )
        at_least += int((second - first >= now - was - 1e-9).sum())
    return Gain(was, now, now - was, (1 + at_least) / (1 + _ROUNDS))


def _choices(samples: int, seed: int) -> Iterator[NDArray[np.bool_]]:
    """`_ROUNDS` rows of `samples` random bits, in chunks ``bool[rounds, samples]``."""
    generator = np.random.default_rng(seed)
    step = max(1, min(_ROUNDS, _CHUNK // max(1, samples)))
    for start in range(0, _ROUNDS, step):
        yield generator.random((min(step, _ROUNDS - start), samples), np.float32) < 0.5


def _f1(hit: NDArray[Any], answered: NDArray[Any], support: NDArray[Any]) -> NDArray[np.float64]:
    present = support > 0
    result: NDArray[np.float64] = (2 * hit[..., present] / (answered[..., present] + support[present])).mean(axis=-1)
    return result


def _costs(costs: Mapping[str, Mapping[str, float]], classes: Sequence[str]) -> NDArray[np.float64]:
    """Cost matrix ``float64[C, C + 1]``; the last column is for predictions of unknown classes."""
    table = np.ones((len(classes), len(classes) + 1))
    table[np.arange(len(classes)), np.arange(len(classes))] = 0
    for true, answers in costs.items():
        for answer, cost in answers.items():
            table[_position(true, classes), _position(answer, classes)] = cost
    return table


def _position(name: str, classes: Sequence[str]) -> int:
    if name not in classes:
        raise InvalidInputError(f"`gate_metric` or `gate_costs` names class {name!r}; there are {sorted(classes)}")
    return list(classes).index(name)
