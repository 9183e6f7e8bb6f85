"""The same drops into a catalogue of ten thousand and of ten million samples: what intake costs by what is stored.

Two databases on one server, alike but for their synthetic rows (random hashes and groups, the real
indexes). Drops of 1,000 real CIFAR-10 images go to the one and to the other in turns; a drop is
claimed, inspected, validated and accepted in this process. `catalogue_scale_ratio` is the median over
the drops of seconds at ten million divided by seconds at ten thousand.
"""

import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text

from ml.catalog.engine import transaction
from ml.catalog.migrate import migrate
from ml.catalog.tables import metadata
from ml.context import Context, connect
from ml.ingest import ingest
from tests import servers
from tests.bench.report import spread

SMALL, LARGE = 10_000, 10_000_000
DROPS, IMAGES = 7, 1000
DATA = Path("../shared/data/cifar10/train.tar")


def figures() -> dict[str, Any]:
    """Ratios, and the seconds they are made of."""
    with tempfile.TemporaryDirectory(prefix="evergreen-bench-") as folder, servers.storage(Path(folder)) as running:
        small = _system(running, Path(folder) / "small", SMALL)
        large = _system(running, Path(folder) / "large", LARGE)
        seconds: dict[str, list[float]] = {"small": [], "large": []}
        for number, files in enumerate(_drops()):
            pair = [("small", small), ("large", large)]
            for name, ctx in pair if number % 2 else pair[::-1]:
                took = _ingest(ctx, f"drop-{number}", files)
                if number:  # the first warms caches and imports
                    seconds[name].append(took)
    ratios = [b / a for a, b in zip(seconds["small"], seconds["large"], strict=True)]
    return {
        "catalogue_scale_ratio": spread(ratios),
        "seconds a drop of 1,000 into 10 thousand": spread(seconds["small"]),
        "seconds a drop of 1,000 into 10 million": spread(seconds["large"]),
    }


def _system(running: servers.Servers, home: Path, count: int) -> Context:
    ctx = connect(running.settings(home))
    migrate(ctx.engine)
    _fill(ctx.engine, count)
    return ctx


def _fill(engine: Engine, count: int) -> None:
    """Synthetic samples; the indexes are built afterwards, which gives the same ones sooner."""
    table = metadata.tables["samples"]
    with transaction(engine) as connection:
        connection.execute(text("set local maintenance_work_mem = '1GB'"))
        connection.execute(
            text("insert into drops (id, prefix, listing_digest, status) values ('synthetic', 'none/', 'x', 'claimed')")
        )
        connection.execute(
            text(
                "insert into segments (id, tar_key, index_key, samples, bytes, tar_sha256, index_sha256) "
                "select 's' || n, 't', 'i', 10000, 1, 'x', 'x' from generate_series(0, :last) n"
            ),
            {"last": count // 10_000},
        )
        for index in table.indexes:
            index.drop(connection)
        connection.execute(
            text(
                "insert into samples (sha256, group_id, split, label, drop_id, segment_id, width, height, "
                "phash_high, phash_low) select md5(n::text) || md5((-n)::text), md5('g' || n) || md5('h' || n), "
                "case when random() < 0.2 then 'holdout' else 'train' end, 'class ' || n % 10, 'synthetic', "
                "'s' || n / 10000, 32, 32, (random() * 4294967295 - 2147483648)::int, "
                "(random() * 4294967295 - 2147483648)::int from generate_series(1, :count) n"
            ),
            {"count": count},
        )
        for index in table.indexes:
            index.create(connection)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("vacuum analyze samples"))
        connection.execute(text("update drops set status = 'rejected', finished_at = now() where id = 'synthetic'"))


def _drops() -> Iterator[dict[str, bytes]]:
    """Distinct images, each drop with all classes."""
    with tarfile.open(DATA) as archive:
        members = [m for m in archive.getmembers() if m.isfile()]
        step = len(members) // (DROPS * IMAGES)
        chosen = members[:: max(1, step)]
        for number in range(DROPS):
            part = chosen[number::DROPS][:IMAGES]
            yield {m.name: file.read() for m in part if (file := archive.extractfile(m)) is not None}


def _ingest(ctx: Context, name: str, files: dict[str, bytes]) -> float:
    prefix = f"{ctx.settings.drops_prefix}{name}/"
    for key, data in files.items():
        ctx.labels.put(prefix + key, data)
    ctx.labels.put(f"{prefix}_READY", b"")
    started = time.perf_counter()
    done = ingest(ctx, prefix)
    took = time.perf_counter() - started
    if done.version is None:
        raise RuntimeError(f"the drop was not accepted: {done.reason}")
    return took
