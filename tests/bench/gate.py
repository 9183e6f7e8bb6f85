"""The gate's promises by simulation; nothing is trained.

`harm_100`: the share of courses of 100 decisions, on a holdout of 2,000 samples, in which a promoted model is
worse than the best so far by more than its decision stated, by the worst of four adversaries and four losses: one
within the margin, which might add up, one just above it, and two and five points. Beside it what a gate breaks that
promotes whatever is ahead and states what one test at 0.05 excludes.

`year_…`, `staleness_daily`, `harm_year`: a year of refreshes (`tests/bench/parts/year.py`), with other rules beside
it. `harm_year` is the share of years, with one challenger in ten sabotaged, in which the live model is ever more than
a point below the best that was live, by the worst of the streams.

`false_veto`: the share of truly better challengers (+1 point, with the noise that refreshes have in their classes)
that a group vetoes, at the worst of three sizes of the holdout, with 20 groups.

EVERGREEN_BENCH_YEARS=200 and EVERGREEN_BENCH_COURSES=1000 say how many of each. Draws `docs/gate-year.svg`.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.bench.parts import adversaries, pairs, year
from tests.bench.parts.adversaries import Holdout
from tests.bench.report import spread

REPETITIONS: Final = int(os.environ.get("EVERGREEN_BENCH_COURSES", "1000"))
YEARS: Final = int(os.environ.get("EVERGREEN_BENCH_YEARS", "200"))
SAMPLES: Final = 2000
DECISIONS: Final = 100
LOSSES: Final = (0.6, 1.01, 2.0, 5.0)
"""Of an adversary's challenger, in points."""
PLOT: Final = Path("docs/gate-year.svg")
RULES: Final[dict[str, year.Rule]] = {
    "better": year.better(),
    "better, right answers only": year.better(brier=False),
    "proven": year.proven(),
    "McNemar at 0.05": year.tested(0.05),
    "whatever is ahead": year.ahead,
}
_SHARE_OF_YEARS: Final = 4
"""Other rules than the default are simulated for a quarter of the years."""


def run() -> dict[str, Any]:
    """Figures by their names in the module's docstring; distances in points, harms as shares."""
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        courses = [(name, loss, naive) for naive in (False, True) for name in adversaries.ALL for loss in LOSSES]
        broken = dict(zip(courses, pool.map(_broken, courses), strict=True))
        keys = [(name, stream, kind) for kind in year.KINDS for stream in year.STREAMS for name in RULES]
        years = dict(zip(keys, pool.map(_years, keys), strict=True))
        vetoes = dict(zip((200, 500, 2000), pool.map(_vetoed, (200, 500, 2000)), strict=True))
    ours = {key: share for key, share in broken.items() if not key[2]}
    best = {stream: years["better", stream, "fashion-mnist"] for stream in year.STREAMS}
    figures: dict[str, Any] = {
        "harm_100": max(ours.values()),
        "harm_year": max(float(np.mean([y.deepest > 1 for y in outcomes["sabotaged"]])) for outcomes in best.values()),
        **{f"year_gap_{s}": spread([float(y.gaps.mean()) for y in outcomes["clean"]]) for s, outcomes in best.items()},
        "staleness_daily": float(np.mean([y.longest for y in best["daily"]["clean"]])),
        "false_veto": max(vetoes.values()),
    }
    for (name, loss, naive), share in broken.items():
        who = "whatever is ahead" if naive else "better"
        figures[f"harm_100, {who}: {name}, {loss:g} points"] = share
    for samples, share in vetoes.items():
        figures[f"false_veto: {samples} samples"] = share
    for (name, stream, kind), outcomes in years.items():
        figures |= _of_years(f"{kind}, {stream}, {name}", outcomes)
    for name in pairs.SETS:
        figures[f"disagreement of real pairs, {name}"] = spread(pairs.disagreements(name).tolist())
        figures[f"samples that answers need for each that Brier scores need, {name}"] = spread(pairs.gains(name))
    _plot(years)
    return {"runs": YEARS, "figures": figures, "plots": [PLOT.name]}


def _broken(course: tuple[str, float, bool]) -> float:
    name, loss, naive = course
    # Half of the coins fall as the champion answers.
    differing = round(2 * year.KINDS["fashion-mnist"].disagreement * SAMPLES)
    broken = 0
    for i in range(REPETITIONS // 10 if naive else REPETITIONS):
        generator = np.random.default_rng([7, i])
        holdout = Holdout(generator, SAMPLES, naive=naive)
        adversaries.ALL[name](holdout, generator, DECISIONS, differing, loss / 100)
        broken += holdout.broken
    return broken / (REPETITIONS // 10 if naive else REPETITIONS)


def _years(key: tuple[str, str, str]) -> dict[str, list[year.Year]]:
    name, stream, kind = key
    count = YEARS if (name, kind) == ("better", "fashion-mnist") else max(4, YEARS // _SHARE_OF_YEARS)
    of = year.KINDS[kind], year.STREAMS[stream], RULES[name]
    return {
        "clean": [year.live(*of, seed, sabotage=False) for seed in range(count)],
        "sabotaged": [year.live(*of, 100_000 + seed, sabotage=True) for seed in range(count)],
    }


def _of_years(label: str, outcomes: dict[str, list[year.Year]]) -> dict[str, float]:
    clean, sabotaged = outcomes["clean"], outcomes["sabotaged"]
    return {
        f"{label}: promotions": float(np.mean([y.promotions for y in clean])),
        f"{label}: mean distance": float(np.mean([y.gaps.mean() for y in clean])),
        f"{label}: longest without a promotion": float(np.mean([y.longest for y in clean])),
        f"{label}: worse ones promoted": float(np.mean([y.worse for y in clean])),
        f"{label}: years with harm, sabotaged": float(np.mean([y.deepest > 1 for y in sabotaged])),
    }


def _vetoed(samples: int, challengers: int = 1000) -> float:
    """Of challengers better by a point over all, with the noise of refreshes in each class."""
    kind, generator, vetoes = year.KINDS["fashion-mnist"], np.random.default_rng([11, samples]), 0
    for _ in range(challengers):
        holdout, champion, challenger = year.better_pair(kind, samples, 0.01, generator)
        vetoes += year.forbidden(holdout, challenger, champion, 0.01)
    return vetoes / challengers


def _plot(years: dict[tuple[str, str, str], dict[str, list[year.Year]]]) -> None:
    """Mean distance of the live model over the year, a line a rule."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, len(year.STREAMS), sharey=True)
    for axis, stream in zip(axes, year.STREAMS, strict=True):
        for name in ("proven", "better"):
            gaps = np.stack([y.gaps for y in years[name, stream, "fashion-mnist"]["clean"]])
            days = np.linspace(0, 12, gaps.shape[1])
            low, middle, high = np.quantile(gaps, [0.1, 0.5, 0.9], axis=0)
            (line,) = axis.plot(days, middle, label=f"rule {name}")
            axis.fill_between(days, low, high, alpha=0.2, color=line.get_color(), linewidth=0)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set(title=stream.replace("_", ", "), xlabel="month", xticks=range(0, 13, 3))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("points behind a model on all data")
    axes[0].legend(loc="upper right")
    figure.savefig(PLOT, metadata={"Date": None})
