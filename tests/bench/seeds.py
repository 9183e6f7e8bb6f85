"""The demo's story over 20 seeds and 3 thread counts: does any outcome hang on chance or on the last bits of a float?

Each story is `evergreen demo`'s three drops through the real stages (intake, training, gate, release without a
replica; Postgres, S3, MLflow), on a system of its own. The seed chooses the order of the digits, what becomes of
them in the drops, and the training's weights and batches. As promised is a story whose first two models were
promoted and whose third drop was held. A row a story is written to
build/bench/seeds.csv. EVERGREEN_BENCH_SEEDS=20 and EVERGREEN_BENCH_THREADS=1,2,8 say which, EVERGREEN_BENCH_JOBS=1 how
many at a time. Other instruction sets: ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 make bench NAME=seeds.
"""

import csv
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from infra.demo import drops, pictures, story
from ml.catalog import decisions
from ml.catalog.cycles import CycleRecord
from ml.context import Context
from ml.cores import available_cores
from ml.pipeline import run_cycle
from ml.settings import Settings
from tests.bench.parts import stored
from tests.bench.report import spread
from tests.servers import Servers, mlflow_server, storage

SEEDS: Final = range(int(os.environ.pop("EVERGREEN_BENCH_SEEDS", "20")))
THREADS: Final = tuple(int(n) for n in os.environ.pop("EVERGREEN_BENCH_THREADS", "1,2,8").split(","))
JOBS: Final = int(os.environ.pop("EVERGREEN_BENCH_JOBS", "1"))
ROWS: Final = Path("build/bench/seeds.csv")


@dataclass(frozen=True)
class Told:
    """One story: accuracies on the second drop's holdout of `samples`, verdicts, and why the last two fell so."""

    seed: int
    threads: int
    isa: str
    champion: float | None
    challenger: float | None
    gained: int | None
    lost: int | None
    samples: int | None
    verdicts: str
    as_promised: bool
    second_reason: str
    third_reason: str
    seconds: float


def run() -> dict[str, Any]:
    """Counts, and how far apart the second drop's two models are; a table of the stories goes to the output."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in the local stack; more threads than cores must not spin
    with tempfile.TemporaryDirectory(prefix="evergreen-seeds-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with storage(folder) as running, mlflow_server(running) as url:
            rows = _kept(_stories(running, folder, url))
    sys.stdout.write(_table(rows))
    compared = [row for row in rows if row.champion is not None]
    figures = {
        "stories": len(rows),
        "stories as promised": sum(row.as_promised for row in rows),
        "second drop: champion's accuracy": spread([row.champion or 0.0 for row in compared]),
        "second drop: challenger's accuracy": spread([row.challenger or 0.0 for row in compared]),
        "second drop: samples gained": spread([row.gained or 0 for row in compared]),
        "second drop: samples lost": spread([row.lost or 0 for row in compared]),
        "seconds of a story": spread([row.seconds for row in rows]),
    }
    return {"runs": len(rows), "figures": figures, "instruction_sets": sorted({row.isa for row in rows})}


def _stories(running: Servers, folder: Path, url: str) -> Iterable[Told]:
    with ProcessPoolExecutor(JOBS, get_context("spawn")) as pool:
        begun = [
            pool.submit(_story, running, folder / f"{seed}-{threads}", url, seed, threads)
            for threads in THREADS
            for seed in SEEDS
        ]
        for done in as_completed(begun):
            yield done.result()


def _kept(stories: Iterable[Told]) -> list[Told]:
    """The stories in order; each is written down when it comes, since all of them take a while."""
    ROWS.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    with ROWS.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Told)])
        writer.writeheader()
        for row in stories:
            writer.writerow(asdict(row))
            file.flush()
            rows.append(row)
    return sorted(rows, key=lambda row: (row.seed, row.threads))


def _story(running: Servers, home: Path, url: str, seed: int, threads: int) -> Told:
    """One story, in a process of the pool."""
    began = time.monotonic()
    story_drops = drops.make_story(pictures.load(None, seed), seed)
    chosen = {"train_threads": threads, "seed": Settings().seed + seed}
    with onednn(threads), stored.system(running, home, f"seeds-{home.name}", url, **chosen) as ctx:
        cycles = [
            _cycle(ctx, f"drop-{n}", drop)
            for n, drop in enumerate((story_drops.first, story_drops.second, story_drops.third))
        ]
        figures = decisions.get(ctx.engine, str(cycles[1].decision_id)).statistics
    return Told(
        seed=seed,
        threads=threads,
        isa=_instructions(),
        champion=figures.get("champion_accuracy"),
        challenger=figures.get("challenger_accuracy"),
        gained=figures.get("challenger_only_right"),
        lost=figures.get("champion_only_right"),
        samples=figures["holdout"],
        verdicts=" ".join(str(cycle.verdict) for cycle in cycles),
        as_promised=all(c.verdict in wanted for c, wanted in zip(cycles, story.EXPECTED_VERDICTS, strict=True)),
        second_reason=cycles[1].reason or "",
        third_reason=cycles[2].reason or "",
        seconds=round(time.monotonic() - began, 1),
    )


@contextmanager
def onednn(threads: int) -> Iterator[None]:
    """Without oneDNN where threads outnumber cores: its threads spin at barriers, so that a story takes 12 minutes.

    PyTorch's own convolutions sum in yet another order, which is what the stories are about.
    """
    import torch

    with torch.backends.mkldnn.flags(enabled=threads <= available_cores()):
        yield


def _cycle(ctx: Context, name: str, drop: list[pictures.Picture]) -> CycleRecord:
    prefix = stored.upload(ctx, name, {f"{p.label}/{p.name}": p.data for p in drop})
    return run_cycle(ctx, prefix, on_stage=lambda *_: None)


def _instructions() -> str:
    """What PyTorch computes with here, and whether training uses bf16."""
    import torch

    from ml.training.loop.placement import SINGLE_PROCESS

    return f"{torch.backends.cpu.get_cpu_capability()}{' bf16' if SINGLE_PROCESS.bf16_pays() else ''}"


def _table(rows: list[Told]) -> str:
    """Seeds by thread counts: gained and lost samples of the second drop where all went as promised, else verdicts."""
    known = {(row.seed, row.threads): row for row in rows}
    lines = [f"{'seed':>4}" + "".join(f"{f'{n} threads':>28}" for n in THREADS)]
    for seed in SEEDS:
        cells = [known[seed, n] for n in THREADS]
        words = [f"+{c.gained} -{c.lost} of {c.samples}" if c.as_promised else c.verdicts for c in cells]
        lines.append(f"{seed:4}" + "".join(f"{word:>28}" for word in words))
    lines.append(f"{sum(row.as_promised for row in rows)} of {len(rows)} as promised\n")
    return "\n".join(lines)
