"""Invariant 1: kill -9 before every single effect of an ingest, run it again, and count."""

from functools import partial

from sqlalchemy import select

from ml.catalog.engine import transaction
from ml.catalog.tables import cycles, drops, labels, quarantine, samples
from ml.context import Context
from ml.datasets import loader, versions
from ml.datasets.splits import SPLITS
from ml.ingest import ingest
from ml.intake.find import find_ready
from tests import mortal
from tests.pictures import digit_files, digits, upload

EACH = 12


def _files(effects: int) -> dict[str, bytes]:
    start = effects * EACH
    label, data = digits()[start]
    return digit_files(start, start + EACH) | {"9/broken.png": b"no image", f"{label}/copy.png": data}


def test_killed_before_each_of_its_effects_it_is_ingested_exactly_once(context: Context) -> None:
    ingest(context, upload(context, "first", {"0/1.png": digits()[-1][1]}))
    effects, killed = 0, True
    while killed:
        prefix = upload(context, f"k{effects}", _files(effects))
        killed = mortal.killed(context, partial(ingest, prefix=prefix), effects)
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
        labelled = list(connection.execute(select(labels.c.sha256)).scalars())
        counted = connection.execute(select(cycles.c.id)).all()
    assert [tuple(f) for f in fates] == [("accepted", EACH, 1, 1)] * count
    assert len(counted) == count + 1
    assert len(aside) == count
    assert len(kept) == count * EACH + 1
    assert sorted(kept) == sorted(labelled)
    version = versions.latest(context)
    assert version
    assert len(versions.all_versions(context.engine, 100)) == count + 1
    listed = [s for split in SPLITS for s in loader.load(context, version.id, split, 8, 1).sha256]
    assert sorted(listed) == sorted(kept)
    assert version.train + version.validation + version.holdout == len(kept)
    assert not find_ready(context)
