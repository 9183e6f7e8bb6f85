"""Listing, comparing and amending versions over ten million samples, in 150 segments as intake writes them."""

import hashlib
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import insert

from ml.catalog.engine import transaction
from ml.catalog.migrate import migrate
from ml.catalog.tables import segments as segments_table
from ml.context import Context, connect
from ml.datasets import amend, contents, segments, versions
from ml.datasets.segments import INDEX_SCHEMA
from ml.datasets.versions import Manifest
from tests import servers
from tests.bench.report import spread

SEGMENTS, EACH, RUNS = 150, 66_667, 5
CLASSES = tuple(f"class {n}" for n in range(10))


def figures() -> dict[str, Any]:
    """Seconds of each, and of all together: `snapshot_10m_seconds`."""
    readings: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="evergreen-bench-") as folder, servers.storage(Path(folder)) as running:
        ctx = connect(running.settings(Path(folder) / "home"))
        migrate(ctx.engine)
        ids = [_segment(ctx, n) for n in range(SEGMENTS)]
        first = _version(ctx, Manifest(tuple(ids[:-1]), {}, (), CLASSES), None)
        second = _version(ctx, Manifest(tuple(ids), {}, (), CLASSES), first)
        for number in range(RUNS):
            steps: dict[str, Callable[[], Any]] = {
                "listing": lambda: (versions.all_versions(ctx.engine), versions.manifest(ctx, second)),
                "diff": lambda: contents.difference(ctx, first, second),
                "snapshot": partial(_relabel, ctx, number),
                "counts": lambda: contents.counts(ctx, second),
            }
            took = {name: _seconds(step) for name, step in steps.items()}
            for name, seconds in took.items():
                readings.setdefault(f"10 million samples, seconds of {name}", []).append(seconds)
            readings.setdefault("snapshot_10m_seconds", []).append(sum(took.values()))
    return {name: spread(values) for name, values in readings.items()}


def _seconds(step: Callable[[], Any]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def _relabel(ctx: Context, number: int) -> None:
    parent, manifest = amend.newest(ctx)
    relabelled = replace(manifest, relabels={**manifest.relabels, f"{number:064}": CLASSES[0]})
    amend.commit(ctx, parent, relabelled, Counter(), "benchmark", lambda _: None)


def _segment(ctx: Context, number: int) -> str:
    """An index of random samples in store and catalog; its tar is never read here."""
    generator = np.random.default_rng(number)
    digests = [row.tobytes().hex() for row in generator.integers(0, 256, (EACH, 32), np.uint8)]
    labels = np.asarray(CLASSES)[generator.integers(0, len(CLASSES), EACH)]
    splits = np.asarray(["train", "validation", "holdout"])[generator.choice(3, EACH, p=[0.7, 0.1, 0.2])]
    columns = {
        "sha256": pa.array(digests),
        "label": pa.array(labels),
        "split": pa.array(splits),
        "group_id": pa.array(digests),
        "drop_id": pa.array([f"d-{number}"] * EACH),
        "format": pa.array(["JPEG"] * EACH),
        "grey": pa.array([False] * EACH),
    }
    for name in INDEX_SCHEMA.names:
        if name not in columns:
            columns[name] = pa.array(generator.integers(0, 1000, EACH)).cast(INDEX_SCHEMA.field(name).type)
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table([columns[n] for n in INDEX_SCHEMA.names], schema=INDEX_SCHEMA), buffer, store_schema=False)
    data = buffer.getvalue().to_pybytes()
    name = hashlib.sha256(data).hexdigest()[:32]
    ctx.store.put(segments.index_key(name), data)
    row = {"id": name, "tar_key": segments.tar_key(name), "index_key": segments.index_key(name), "samples": EACH}
    proof = {"bytes": 1, "tar_sha256": "none", "index_sha256": hashlib.sha256(data).hexdigest()}
    with transaction(ctx.engine) as connection:
        connection.execute(insert(segments_table).values(row | proof))
    return name


def _version(ctx: Context, manifest: Manifest, parent: str | None) -> str:
    ctx.store.put(versions.key(manifest.id), manifest.to_bytes())
    with transaction(ctx.engine) as connection:
        before = versions.get(ctx, parent) if parent else None
        versions.insert_version(connection, manifest, before, Counter(train=1), "benchmark")
    return manifest.id
