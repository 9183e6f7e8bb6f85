"""Keeping up with a stream: CIFAR-10 in ten drops, refreshes beside full retraining at each drop.

Three orders: shuffled; two new classes a drop, twice round; noise and blur that grow from drop to drop. The plan,
the replay, the recipe, the loop and the gate that decides each drop (rule `better`, on a fifth of each drop) are
production's, with the default settings. What counts is what is live, not what was trained. By name, the worst of the
orders:

- `gap_points`: accuracy on the 5,000 test images after the last drop, full retraining minus what is live.
- `compute_share`: images learned from by all refreshes (with the first full training) over those of full retraining
  at each drop; an image that is only looked at (validation, a teacher, a choice of replay) counts as a third.
- `forgetting_points`: what kinds of test images (classes, strengths of noise) lost since the drop that brought them
  last, on average (Lopez-Paz & Ranzato 2017); shuffled, where every drop brings every kind: since the drop before.

EVERGREEN_BENCH_SEEDS=3 says how many seeds. Finished courses are kept in build/bench/stream and not run again.
"""

import hashlib
import json
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from ml.cores import available_cores
from ml.settings import Settings
from tests.bench.parts import stored, stream
from tests.bench.report import spread

SEEDS = range(int(os.environ.get("EVERGREEN_BENCH_SEEDS", "3")))
KEPT = Path("build/bench/stream")
PLOT = Path("docs/stream.svg")
ALL = 10**9

Key = tuple[str, int, str]
"""Order, seed, and `full` or `refreshed`."""
Told = dict[str, Any]
"""Of a course: `seen`, `accuracy` (a drop each, or at the end), `forgetting`, `promotions`."""


def run() -> dict[str, Any]:
    """Figures by order and their worst; draws `PLOT`."""
    if not stored.DATA.exists():
        raise SystemExit(f"nothing to measure: {stored.DATA} is not there")
    keys = [(order, seed, kind) for seed in SEEDS for order in stream.ORDERS for kind in ("refreshed", "full")]
    KEPT.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(available_cores(), get_context("spawn")) as pool:
        courses = dict(zip(keys, pool.map(_course, keys), strict=True))
    by_order = {order: _figures(order, courses) for order in stream.ORDERS}
    _plot(courses)
    key_figures = ("gap_points", "compute_share", "forgetting_points")
    worst = {
        name: spread(max((order_figures[name] for order_figures in by_order.values()), key=np.mean))
        for name in key_figures
    }
    figures = {
        f"{order}: {name.replace('_', ' ')}": spread(values)
        for order, order_figures in by_order.items()
        for name, values in order_figures.items()
    }
    return {"runs": len(SEEDS), "figures": worst | figures, "plots": [PLOT.name]}


def _course(key: Key) -> Told:
    """One way through one stream, in a process of its own."""
    order, seed, kind = key
    settings = Settings(seed=17 + seed, train_threads=1)
    identity = hashlib.sha256(repr((key, settings)).encode()).hexdigest()[:8]
    path = KEPT / f"{order.replace(' ', '-')}-{seed}-{kind}-{identity}.json"
    if not path.exists():
        train, test = stream.pixels(stored.DATA, ALL), stream.pixels(stored.DATA.with_name("test.tar"), ALL)
        sequence = stream.make(order, train, test, seed)
        course = stream.full(sequence, settings) if kind == "full" else stream.refreshed(sequence, settings)
        record = {
            "seen": course.seen,
            "accuracy": (course.answers == sequence.test[1]).mean(1).tolist(),
            "forgetting": stream.forgetting(sequence, course.answers) if kind == "refreshed" else 0.0,
            "promotions": course.promotions,
        }
        path.with_suffix(".part").write_text(json.dumps(record))
        path.with_suffix(".part").rename(path)
    kept: Told = json.loads(path.read_text())
    return kept


def _figures(order: str, courses: dict[Key, Told]) -> dict[str, list[float]]:
    pairs = [(courses[order, seed, "refreshed"], courses[order, seed, "full"]) for seed in SEEDS]
    return {
        "gap_points": [100 * (full["accuracy"][-1] - warm["accuracy"][-1]) for warm, full in pairs],
        "compute_share": [warm["seen"] / full["seen"] for warm, full in pairs],
        "forgetting_points": [warm["forgetting"] for warm, _ in pairs],
        "accuracy of full retraining": [full["accuracy"][-1] for _, full in pairs],
        "accuracy of what is live": [warm["accuracy"][-1] for warm, _ in pairs],
        "promotions of ten": [warm["promotions"] for warm, _ in pairs],
    }


def _plot(courses: dict[Key, Told]) -> None:
    """Accuracy after each drop: mean over the seeds and their range; full retraining at the end."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    axes = figure.subplots(1, len(stream.ORDERS), sharey=True)
    drops = np.arange(1, stream.DROPS + 1)
    for axis, order in zip(axes, stream.ORDERS, strict=True):
        warm = 100 * np.asarray([courses[order, seed, "refreshed"]["accuracy"] for seed in SEEDS])
        full = 100 * np.asarray([courses[order, seed, "full"]["accuracy"][-1] for seed in SEEDS])
        axis.plot(drops, warm.mean(0), marker="o", label="what is live")
        axis.fill_between(drops, warm.min(0), warm.max(0), alpha=0.2)
        axis.axhline(full.mean(), color="black", linestyle="--", label="full retraining on everything")
        axis.set(title=order, xlabel="drop", xticks=drops)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy on the test images, %")
    axes[0].legend(loc="lower right")
    figure.savefig(PLOT, metadata={"Date": None})
