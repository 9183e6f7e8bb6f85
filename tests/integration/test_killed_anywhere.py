"""Invariant 1: kill -9 before every single effect of an ingest, run it again, and count."""

import multiprocessing
import os
import signal
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from sqlalchemy import event, select

from ml.catalog.engine import transaction
from ml.catalog.tables import cycles, drops, labels, quarantine, samples
from ml.context import Context, connect
from ml.datasets import loader, versions
from ml.datasets.ingest import ingest
from ml.datasets.splits import SPLITS
from ml.intake.find import find_ready
from ml.objects import ObjectStore
from ml.settings import Settings
from tests.pictures import digit_files, digits, upload

EACH = 12


class Life:
    """Ends this process with SIGKILL at the given effect."""

    def __init__(self, effects: int) -> None:
        self.left = effects

    def spend(self, *_: object) -> None:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1


class Mortal(ObjectStore):
    """A bucket whose every change costs some life."""

    def __init__(self, inner: ObjectStore, life: Life) -> None:
        super().__init__(inner._client, inner.bucket)
        self._life = life

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        self._life.spend()
        super().put(key, data, content_type)

    def put_file(self, key: str, path: Path, content_type: str = "application/octet-stream") -> None:
        self._life.spend()
        super().put_file(key, path, content_type)

    def copy(self, source: str, target: str, source_bucket: str | None = None) -> None:
        self._life.spend()
        super().copy(source, target, source_bucket)

    def delete(self, keys: Iterable[str]) -> None:
        self._life.spend()
        super().delete(keys)


def _ingest_and_die(settings: Settings, prefix: str, effects: int) -> None:
    life = Life(effects)
    ctx = connect(settings)
    event.listen(ctx.engine, "commit", life.spend)
    ingest(replace(ctx, labels=Mortal(ctx.labels, life), store=Mortal(ctx.store, life)), prefix)


def _killed(context: Context, prefix: str, effects: int) -> bool:
    context.engine.dispose()
    child = multiprocessing.get_context("fork").Process(
        target=_ingest_and_die, args=(context.settings, prefix, effects)
    )
    child.start()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0


def _files(effects: int) -> dict[str, bytes]:
    start = effects * EACH
    label, data = digits()[start]
    return digit_files(start, start + EACH) | {"9/broken.png": b"no image", f"{label}/copy.png": data}


def test_killed_before_each_of_its_effects_it_is_ingested_exactly_once(context: Context) -> None:
    ingest(context, upload(context, "first", {"0/1.png": digits()[-1][1]}))
    effects, killed = 0, True
    while killed:
        killed = _killed(context, upload(context, f"k{effects}", _files(effects)), effects)
        for drop in find_ready(context):
            ingest(context, drop.prefix)
        effects += 1
    assert effects > 20  # else it counted the wrong things
    _check(context, effects)


def _check(context: Context, count: int) -> None:
    with transaction(context.engine) as connection:
        columns = (drops.c.status, drops.c.accepted, drops.c.duplicates, drops.c.quarantined)
        fates = connection.execute(select(*columns).order_by(drops.c.found_at).offset(1)).all()
        aside = connection.execute(select(quarantine.c.drop_id)).all()
        kept = list(connection.execute(select(samples.c.sha256)).scalars())
        said = list(connection.execute(select(labels.c.sha256)).scalars())
        counted = connection.execute(select(cycles.c.id)).all()
    assert [tuple(f) for f in fates] == [("accepted", EACH, 1, 1)] * count
    assert len(counted) == count + 1
    assert len(aside) == count
    assert len(kept) == count * EACH + 1
    assert sorted(kept) == sorted(said)
    version = versions.latest(context)
    assert version
    assert len(versions.all_versions(context.engine, 100)) == count + 1
    listed = [s for split in SPLITS for s in loader.load(context, version.id, split, 8, 1).sha256]
    assert sorted(listed) == sorted(kept)
    assert version.train + version.validation + version.holdout == len(kept)
    assert not find_ready(context)
