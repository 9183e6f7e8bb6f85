"""Reloads at full load: does a request fail, is one answered by a mix, and how much slower is the slowest hundredth?

100,000 requests (`EVERGREEN_BENCH_REQUESTS` says otherwise) from 8 connections to two workers on the same cores,
while 50 releases go back and forth between a small CNN in fp32 with ten classes and one in INT8 with seven, each a
whole `deploy_decision`: desired state, load, probes, swap, acknowledgement, live probes. Every answer is compared
with what the named version gives for that image. `p99_ratio` is the p99 of requests that overlap a release over that
of all others, `without_load_seconds` what a release takes in the end, `rollback_seconds` from typing `evergreen
rollback` to the last acknowledgement, with four workers.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ml.catalog import deployments
from ml.catalog.migrate import migrate
from ml.context import Context, connect
from ml.imaging import images
from ml.imaging.images import Limits
from ml.models import bundle, variants
from ml.models.model import Model
from ml.release import operator
from ml.release.deploy import Deployment
from tests import servers as real
from tests.bench.parts.described import described
from tests.bench.report import spread
from tests.bundles import upload
from tests.environment import environment
from tests.file_registry import FileRegistry, install
from tests.pictures import digits
from tests.servers import Servers, wait_until
from tests.serving_process import Service, service

REQUESTS = 100_000
FEWER = "EVERGREEN_BENCH_REQUESTS"
RELOADS = 50
ROLLBACKS = 5
CONNECTIONS = 8
WORKERS = 2
SIDE = 32
PICTURES = [data for _, data in digits()[:50]]
CLASSES = {"fp32": tuple("0123456789"), "int8": tuple(f"class {n}" for n in range(7))}
TOLERANCE = 3e-6
"""The service rounds to six digits."""

Window = tuple[float, float]


@dataclass(frozen=True)
class System:
    ctx: Context
    registry: FileRegistry
    folders: dict[str, Path]
    service: Service

    def variant(self, version: int) -> str:
        return "fp32" if version % 2 else "int8"

    def trained(self, versions: Iterable[int]) -> None:
        """As a training leaves them: each a new version of the other kind, in the bucket and the registry."""
        for version in versions:
            folder = self.folders[self.variant(version)]
            digest = bundle.digest((folder / bundle.INFO).read_bytes())
            self.registry.add(version, upload(self.ctx, folder, version), digest)

    def release(self, version: int) -> Deployment:
        done = operator.promote(self.ctx, version, "bench", "the next")
        if done.status != "live":
            raise AssertionError(f"release {version} ended {done.status}: {done.reason}")
        return done


def run() -> dict[str, Any]:
    """Load and releases, then roll backs."""
    requests = int(os.environ.pop(FEWER, REQUESTS))  # popped, for the service would take it for a setting
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folders = {kind: _bundle(folder / kind, kind) for kind in CLASSES}
        (folder / "servers").mkdir()
        with real.storage(folder / "servers") as servers:
            with _running(servers, folder, folders, WORKERS) as system:
                result = _under_load(system, folder, requests)
            with _running(servers, folder, folders, 4) as system:
                result["figures"]["rollback_seconds"] = spread([_rollback(system, n) for n in range(ROLLBACKS)])
    return {"runs": 1, **result}


def _under_load(system: System, folder: Path, requests: int) -> dict[str, Any]:
    pictures, output = folder / "pictures", folder / "answers.jsonl"
    pictures.mkdir()
    for number, data in enumerate(PICTURES):
        (pictures / f"{number:03}.png").write_bytes(data)
    host, _, port = system.service.url.removeprefix("http://").partition(":")
    arguments = [host, port, str(requests), str(CONNECTIONS), str(pictures), str(output)]
    command = [sys.executable, "-m", "tests.bench.parts.hammer", *arguments]
    system.trained(range(2, RELOADS + 6))
    began, windows, done = time.monotonic(), list[Window](), list[Deployment]()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        for line in client.stdout or ():
            while len(done) < RELOADS and int(line) >= (len(done) + 1) * requests // (RELOADS + 1):
                started = time.monotonic()
                done.append(system.release(len(done) + 2))
                windows.append((started, time.monotonic()))
    if client.returncode or len(done) != RELOADS:
        raise AssertionError(f"the load generator ended with {client.returncode} after {len(done)} releases")
    alone = [system.release(RELOADS + 2 + n).acknowledged or 0.0 for n in range(4)]
    answers = [orjson.loads(line) for line in output.read_bytes().splitlines()]
    return _judge(system, answers, windows, done, alone, time.monotonic() - began)


def _judge(
    system: System,
    answers: list[list[Any]],
    windows: list[Window],
    done: list[Deployment],
    alone: list[float],
    seconds: float,
) -> dict[str, Any]:
    truth = {kind: _truth(system.folders[kind]) for kind in CLASSES}
    failed = [answer for answer in answers if answer[3] != 200]
    mixed = [a for a in answers if a[3] == 200 and not _fits(system, truth, a[2], orjson.loads(a[4]))]
    for kind, faulty in (("failed", failed), ("mixed", mixed)):
        for answer in faulty[:5]:
            sys.stderr.write(f"{kind}: {answer}\n")
    starts, ends = (np.array([answer[n] for answer in answers]) for n in (0, 1))
    during = np.zeros(len(answers), bool)
    for begin, end in windows:
        during |= (starts < end) & (ends > begin)
    latency = (ends - starts) * 1000
    steady, reloading = (float(np.quantile(latency[chosen], 0.99)) for chosen in (~during, during))
    totals = {
        "requests": len(answers),
        "reloads": len(done),
        "failed": len(failed),
        "mixed": len(mixed),
        "p99_ratio": round(reloading / steady, 3),
    }
    figures: dict[str, Any] = totals | {
        "requests during reloads": int(during.sum()),
        "requests a second": round(len(answers) / seconds, 1),
        "p99 ms steady": round(steady, 2),
        "p99 ms during reloads": round(reloading, 2),
        "slowest ms steady": round(float(latency[~during].max()), 1),
        "slowest ms during reloads": round(float(latency[during].max()), 1),
        "reload_seconds": spread([one.acknowledged or 0.0 for one in done]),
        "without_load_seconds": spread(alone),
    }
    return {**totals, "figures": figures}


def _fits(system: System, truth: dict[str, list[dict[str, float]]], image: int, answer: dict[str, Any]) -> bool:
    """Whether the answer is the one that the version it names gives for the image."""
    right = truth[system.variant(answer["model_version"])][image]
    best = sorted(right.values(), reverse=True)[: len(answer["top"])]
    given = [(one["label"], one["probability"]) for one in answer["top"]]
    return answer["label"] == given[0][0] and all(
        label in right and abs(p - right[label]) <= TOLERANCE and abs(p - q) <= TOLERANCE
        for (label, p), q in zip(given, best, strict=True)
    )


def _truth(folder: Path) -> list[dict[str, float]]:
    """Label to probability of each image, by the very model that the service loads."""
    model: Model = variants.load_proven(folder, 1e-3, variant="int8")
    info, limits = model.info, Limits(10**6, 10**6)
    probabilities = []
    for data in PICTURES:
        pixels = images.decode(data, info.image_size, info.channels, limits)
        probabilities.append(dict(zip(info.labels, map(float, model.predict(pixels[np.newaxis])[0]), strict=True)))
    return probabilities


def _rollback(system: System, number: int) -> float:
    """Seconds from the start of the command's process to its end, which is after the last acknowledgement."""
    system.trained([10 + number])
    system.release(10 + number)
    command = [sys.executable, "-c", "from infra.cli import main; main()", "rollback", "--reason", "bench", "--json"]
    before = deployments.live(system.ctx.engine)
    started = time.monotonic()
    variables = os.environ | environment(system.ctx.settings) | {"PYTHONPATH": str(Path.cwd())}
    subprocess.run(command, env=variables, check=True, capture_output=True)
    seconds = time.monotonic() - started
    after = deployments.live(system.ctx.engine)
    if not before or not after or after.model_version != before.previous_version:
        raise AssertionError(f"the roll back from {before} led to {after}")
    return seconds


@contextmanager
def _running(servers: Servers, folder: Path, folders: dict[str, Path], workers: int) -> Iterator[System]:
    """A system of its own in which version 1 is live on so many workers."""
    home = folder / f"home-{workers}"
    home.mkdir()
    settings = servers.settings(home, service_variant="int8")  # for bundles that have one
    ctx = connect(settings)
    migrate(ctx.engine)
    with service(settings, home, workers) as running:
        ctx = replace(ctx, settings=settings.model_copy(update={"service_url": running.url}))
        system = System(ctx, install(ctx, home / "registry.json"), folders, running)
        wait_until(lambda: len(deployments.live_replicas(ctx.engine, 2.0)) == workers, what="replicas")
        system.trained([1])
        system.release(1)
        yield system


def _bundle(folder: Path, kind: str) -> Path:
    """A small CNN with weights as they are drawn; the second kind has an INT8 variant, which is served."""
    from ml.training import export, quantise
    from ml.training.network import networks

    labels = CLASSES[kind]
    info = described("small_cnn", labels, SIDE, 1, len(labels))
    folder.mkdir()
    seen = np.stack([images.decode(data, SIDE, 1, Limits(10**6, 10**6)) for data in PICTURES])
    export.export(networks.build("small_cnn", 1, len(labels), SIDE, len(labels)), info, seen[:8], folder)
    if kind == "int8":
        quantise.add(folder, seen, (seen, np.zeros(len(seen), np.int64)), 1.0)
    return folder
