"""Intake of CIFAR-10's training images as one drop, beside what this machine can do at most."""

import hashlib
import itertools
import multiprocessing
import os
import resource
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from infra.airflow import airflow_local_settings
from ml.catalog import drops
from ml.catalog.migrate import migrate
from ml.context import connect
from ml.datasets.accept import accept
from ml.imaging import images, perceptual_hash
from ml.imaging.images import Limits
from ml.intake.claim import claim
from ml.intake.inspect import chunk_count, inspect_chunk
from ml.intake.validate import validate
from ml.settings import Settings
from ml.storage import object_store
from tests.bench.report import spread
from tests.servers import Servers, storage

DATA = Path(os.environ.get("EVERGREEN_BENCH_CIFAR10", "../shared/data/cifar10/train.tar"))
IMAGES = int(os.environ.get("EVERGREEN_BENCH_IMAGES", "50000"))
RUNS = int(os.environ.get("EVERGREEN_BENCH_RUNS", "3"))
SMALL = 1000
LIMITS = Limits(20_000_000, 40_000_000)
CORES = len(os.sched_getaffinity(0))


def figures() -> dict[str, Any]:
    """Raises FileNotFoundError when the images are not there."""
    if not DATA.exists():
        raise FileNotFoundError(
            f"{DATA} is not there: a tar of CIFAR-10's training images as <class>/<number>.jpg; "
            "EVERGREEN_BENCH_CIFAR10 may name it"
        )
    with tempfile.TemporaryDirectory(prefix="evergreen-bench-") as folder, storage(Path(folder)) as servers:
        shared = servers.settings(Path(folder) / "home")
        count = _upload(shared, "large", IMAGES)
        _upload(shared, "small", SMALL)
        readings: dict[str, list[float]] = {}
        for _ in range(RUNS):
            _collect(readings, _limit(shared, count) | _intake(servers, shared, "large", count))
        limit, whole = readings["limit seconds"], readings["intake seconds"]
        small = _intake(servers, shared, "small", SMALL)
    readings["share_of_limit"] = [a / b for a, b in zip(limit, whole, strict=True)]
    for name in [n for n in small if n.startswith("peak")]:
        readings[name.replace("peak", f"peak at {SMALL},")] = [small[name]]
        readings[name.replace("peak", f"peak at {count},")] = readings.pop(name)
    return {name: spread(values) for name, values in readings.items()}


def _upload(settings: Settings, name: str, count: int) -> int:
    """The first `count` images, spread over the classes, and the marker."""
    bucket = object_store.connect(settings, settings.labels_bucket)
    with tarfile.open(DATA) as tar:
        members = [m for m in tar if m.isfile()]
        step = max(1, len(members) // count)
        chosen = [(m.name, tar.extractfile(m).read()) for m in members[::step][:count]]  # type: ignore[union-attr]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda one: bucket.put(f"drops/{name}/{one[0]}", one[1]), chosen))
    bucket.put(f"drops/{name}/_READY", b"")
    return len(chosen)


def _collect(readings: dict[str, list[float]], more: dict[str, float]) -> None:
    for name, value in more.items():
        readings.setdefault(name, []).append(value)


def _limit(settings: Settings, count: int) -> dict[str, float]:
    """Get, SHA-256, decode and both hashes, nothing else: in as many processes as there are cores."""
    bucket = object_store.connect(settings, settings.labels_bucket)
    keys = [o.key for o in bucket.list("drops/large/") if o.key.endswith(".jpg")]
    seconds, _ = _spread_out(_look, [(settings, keys[i::CORES]) for i in range(CORES)])
    return {"limit seconds": seconds, "limit images a second": count / seconds}


def _look(settings: Settings, keys: list[str]) -> None:
    bucket = object_store.connect(settings, settings.labels_bucket)
    for data in bucket.get_many(keys):
        assert isinstance(data, bytes)
        hashlib.sha256(data).digest()
        image = images.open_image(data, LIMITS)
        perceptual_hash.phash(image.convert("L"))
        hashlib.sha256(np.asarray(image).data).digest()


def _intake(servers: Servers, shared: Settings, name: str, count: int) -> dict[str, float]:
    """Claim, inspect, validate and accept, each in processes of its own as Airflow's tasks are."""
    settings = servers.settings(shared.home, labels_bucket=shared.labels_bucket)
    migrate(connect(settings).engine)
    prefix = f"drops/{name}/"
    measurements: dict[str, float] = {}
    measurements["claim"], measurements["peak claim MB"] = _spread_out(_claim, [(settings, prefix)])
    ctx = connect(settings)
    (drop_id,) = drops.unfinished(ctx.engine)
    chunks = range(chunk_count(ctx, drop_id))
    work = [(settings, drop_id, list(chunks[i::CORES])) for i in range(min(CORES, len(chunks)))]
    measurements["inspect"], measurements["peak inspect MB"] = _spread_out(_inspect, work)
    measurements["validate"], measurements["peak validate MB"] = _spread_out(_validate, [(settings, drop_id)])
    measurements["accept"], measurements["peak accept MB"] = _spread_out(_accept, [(settings, drop_id)])
    row = drops.get(ctx.engine, drop_id)
    assert (row.status, row.images) == ("accepted", count), row
    object_store.connect(shared, shared.labels_bucket).put(f"{prefix}_READY", b"")
    stages = ("claim", "inspect", "validate", "accept")
    seconds = sum(measurements[s] for s in stages)
    return {
        "intake seconds": seconds,
        "intake images a second": count / seconds,
        **{f"{s} seconds" if s in stages else s: value for s, value in measurements.items()},
    }


def _claim(settings: Settings, prefix: str) -> None:
    claim(connect(settings), prefix)


def _inspect(settings: Settings, drop_id: str, chunks: Iterable[int]) -> None:
    ctx = connect(settings)
    for chunk in chunks:
        inspect_chunk(ctx, drop_id, chunk)


def _validate(settings: Settings, drop_id: str) -> None:
    assert validate(connect(settings), drop_id).accepted


def _accept(settings: Settings, drop_id: str) -> None:
    assert accept(connect(settings), drop_id)


def _spread_out(function: Callable[..., None], work: list[tuple[Any, ...]]) -> tuple[float, float]:
    """Seconds, and peak memory in MB of the largest process, with one fork for each piece of work.

    What a task imports is imported before the clock starts: an Airflow worker's start is not intake's.
    """
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in work]
    ready = context.Barrier(len(work) + 1)
    children = [
        context.Process(target=_child, args=(function, piece, ready, end))
        for piece, (_, end) in zip(work, pipes, strict=True)
    ]
    for child in children:
        child.start()
    for _, end in pipes:
        end.close()  # so that a child that dies is not waited for
    ready.wait(60)
    started = time.perf_counter()
    peaks = [pipe.recv() for pipe, _ in pipes]
    seconds = time.perf_counter() - started
    for child in children:
        child.join()
        assert child.exitcode == 0
    return seconds, max(itertools.chain(peaks))


def _child(function: Callable[..., None], piece: tuple[Any, ...], ready: Any, end: Any) -> None:
    if function is _validate:
        import great_expectations  # noqa: F401

    airflow_local_settings.freeze_loaded_objects()  # as in Airflow's scheduler before it forks tasks
    ready.wait()
    function(*piece)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    below = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    end.send(max(own, below) / 1024)
