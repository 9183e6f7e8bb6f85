"""A hundred million logged answers: what the console, the monitor, feedback and looking one up ask of them.

Synthetic answers of three model versions over 30 days and today, a partition a day with its real indexes, and 200,000
opinions.
`slowest_query_milliseconds` is the slowest of all runs of all queries, the first one with cold caches of the planner
among them. Answers older than two days have neither top five nor image, to fit the disk: no query reads them.
EVERGREEN_BENCH_ROWS sets how many there are.
"""

import os
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, select, text

from ml.catalog import accuracy, deployments
from ml.catalog.engine import transaction
from ml.catalog.migrate import migrate
from ml.catalog.predictions import PredictionRow, store
from ml.catalog.tables import predictions
from ml.context import Context, connect
from ml.models.bundle import BundleInfo
from ml.monitoring import feedback, judge, maintain, observe
from serving.console import overview
from tests import servers
from tests.bench.parts import answers
from tests.bench.report import spread

ROWS: Final = int(os.environ.pop("EVERGREEN_BENCH_ROWS", "100000000"))
DAYS: Final = 30
RUNS: Final = 5


def run() -> dict[str, Any]:
    """Milliseconds of each query."""
    with tempfile.TemporaryDirectory(prefix="evergreen-predictions-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with servers.storage(folder) as running:
            ctx = connect(running.settings(folder / "home"))
            migrate(ctx.engine)
            started = time.monotonic()
            answers.fill(ctx.engine, ROWS, DAYS)
            filled = time.monotonic() - started
            figures = _measured(ctx)
    return {"runs": RUNS, "figures": {"rows": ROWS, "fill_seconds": round(filled), **figures}}


def _measured(ctx: Context) -> dict[str, Any]:
    milliseconds = {name: [_took(query) for _ in range(RUNS)] for name, query in _queries(ctx).items()}
    worst = max(max(values) for values in milliseconds.values())
    figures = {f"{name}_milliseconds": spread(values) for name, values in milliseconds.items()}
    return {"slowest_query_milliseconds": round(worst, 1), **figures}


def _took(query: Callable[[], object]) -> float:
    started = time.perf_counter()
    query()
    return (time.perf_counter() - started) * 1000


def _queries(ctx: Context) -> dict[str, Callable[[], object]]:
    engine, now = ctx.engine, datetime.now(UTC)
    day, month = now - timedelta(hours=24), now - timedelta(days=DAYS)
    info = BundleInfo(
        architecture="none", labels=answers.LABELS, image_size=8, channels=1, dataset_version="d", run_id="r",
        code_version="c", seed=1, class_shares=dict.fromkeys(answers.LABELS, 0.1), files={},
        confidence_deciles=tuple(n / 10 for n in range(1, 10)),
    )  # fmt: skip
    with transaction(engine) as connection:
        known = connection.execute(
            select(predictions.c.id, predictions.c.at, predictions.c.client_key)
            .where(predictions.c.at < month + timedelta(days=2), predictions.c.client_key.is_not(None))
            .limit(1)
        ).one()
    by_id = select(predictions).where(predictions.c.id == known.id, predictions.c.at == known.at)
    by_key = select(predictions).where(predictions.c.client_key == known.client_key)
    return {
        "console": lambda: overview.read(engine, ctx.settings),
        "monitor_live_version": lambda: _within(engine, lambda c: observe._figures(c, answers.VERSIONS[-1], day, info)),
        "monitor_old_version": lambda: _within(engine, lambda c: observe._figures(c, answers.VERSIONS[0], day, info)),
        "monitor_judged_rows": lambda: judge._rows(ctx, day),
        "live_accuracy": lambda: _within(engine, lambda c: accuracy.by_version(c, month)),
        "feedback_to_gather": lambda: _within(engine, lambda c: feedback._fresh(c, DAYS)),
        "look_up_by_id": lambda: _within(engine, lambda c: c.execute(by_id).all()),
        "look_up_by_client_key": lambda: _within(engine, lambda c: c.execute(by_key).all()),
        "partitions": lambda: _within(engine, maintain._partitions),
        "live_deployment": lambda: deployments.live(engine),
        "store_a_thousand": lambda: _within(engine, lambda c: store(c, _fresh_answers(), None, "bench")),
    }


def _within(engine: Engine, question: Callable[[Any], object]) -> object:
    with transaction(engine) as connection:
        connection.execute(text("set local statement_timeout = '60s'"))
        return question(connection)


def _fresh_answers() -> list[PredictionRow]:
    return [PredictionRow(row, None) for row in answers.fresh(1000)]
