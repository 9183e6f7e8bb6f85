"""Compaction changes where samples lie and nothing else, also when it is killed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from ml.catalog.engine import transaction
from ml.catalog.tables import dataset_versions, samples
from ml.context import Context, connect
from ml.datasets import loader, verify, versions
from ml.datasets.compact import compact
from ml.datasets.splits import SPLITS
from ml.erasure import erase, selection
from ml.ingest import ingest
from ml.training import due
from tests import mortal
from tests.pictures import digit_files, digits, upload
from tests.servers import Servers

DROPS, EACH = 9, 12


@pytest.fixture(scope="module")
def filled(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A system of many small drops, to copy and not to change."""
    ctx = connect(servers.migrated(tmp_path_factory.mktemp("home")))
    for i in range(DROPS):
        ingest(ctx, upload(ctx, f"drop-{i}", digit_files(i * EACH, (i + 1) * EACH)))
    again = {f"{(int(digits()[0][0]) + 1) % 10}/relabelled.png": digits()[0][1]}
    ingest(ctx, upload(ctx, "relabels", again))
    return ctx


@pytest.fixture
def context(filled: Context, servers: Servers, tmp_path: Path) -> Context:
    return connect(servers.copied(filled, tmp_path / "home"))


def content(ctx: Context, version: str) -> dict[str, list[tuple[str, str, bytes]]]:
    """By split: hash, label and pixels of each sample, in manifest order."""
    by_split: dict[str, list[tuple[str, str, bytes]]] = {}
    for split in SPLITS:
        loaded = loader.load(ctx, version, split, 8, 1)
        labels = [loaded.classes[i] for i in loaded.labels]
        pixels = [image.tobytes() for image in np.asarray(loaded.images)]
        by_split[split] = list(zip(loaded.sha256, labels, pixels, strict=True))
    return by_split


def latest(ctx: Context) -> str:
    version = versions.latest(ctx)
    assert version
    return version.id


def places(ctx: Context) -> set[str]:
    with transaction(ctx.engine) as connection:
        return set(connection.execute(select(samples.c.segment_id).distinct()).scalars())


def test_the_samples_stay_and_the_segments_become_few(context: Context) -> None:
    before = latest(context)
    held = content(context, before)
    assert len(versions.manifest(context, before).segments) == DROPS
    assert compact(context) == DROPS
    after = latest(context)
    (segment,) = versions.manifest(context, after).segments
    assert after != before
    assert content(context, after) == held
    assert content(replace_cache(context), before) == held
    assert places(context) == {segment}
    assert list(verify.problems(context, after)) == list(verify.problems(context, before)) == []
    assert verify.repacked_id(context, segment) == segment
    assert compact(context) == 0
    assert latest(context) == after


def replace_cache(ctx: Context) -> Context:
    """The same system seen from a host that has nothing yet."""
    return replace(ctx, settings=ctx.settings.model_copy(update={"home": ctx.settings.home / "other"}))


def test_drops_and_erasures_go_on_afterwards(
    filled: Context, servers: Servers, mlflow_url: str, tmp_path: Path
) -> None:
    context = connect(servers.copied(filled, tmp_path / "home", mlflow_url=mlflow_url, model_name="compaction"))
    compact(context)
    result = ingest(context, upload(context, "later", digit_files(500, 500 + EACH) | digit_files(0, 3)))
    assert result.version
    before = content(context, latest(context))
    victim = before["train"][0][0]
    with transaction(context.engine) as connection:
        current = connection.execute(select(samples.c.segment_id).where(samples.c.sha256 == victim)).scalar_one()
    for suffix in (".parquet", ".tar"):  # as a process that is killed before its commit leaves them
        context.store.put(f"segments/orphan{suffix}", context.store.get(f"segments/{current}{suffix}"))
    receipt = erase.erase(context, selection.of_hashes([victim]), actor="test", reason="asked")
    assert receipt.left == []
    assert len(receipt.lost_versions) > DROPS, "those before the compaction too"
    stored = [context.store.get(info.key) for info in context.store.list("segments/")]
    assert not any(victim.encode() in data for data in stored)
    left = content(context, latest(context))
    assert left == {split: [s for s in rows if s[0] != victim] for split, rows in before.items()}


def test_the_drop_that_waits_for_its_training_is_not_forgotten(context: Context) -> None:
    compact(context)
    chosen = due.choose(context, "asset_triggered__1")
    assert chosen
    assert chosen.dataset_version == latest(context)
    assert chosen.cycle_id.startswith("d-")


def test_killed_before_each_effect_it_ends_the_same(context: Context) -> None:
    held = content(context, latest(context))
    for effects in range(60):
        dead = mortal.killed(context, compact, effects)
        assert content(context, latest(context)) == held
        assert places(context) == set(versions.manifest(context, latest(context)).segments)
        if not dead:
            break
    assert len(places(context)) == 1
    with transaction(context.engine) as connection:
        causes = list(connection.execute(select(dataset_versions.c.cause)).scalars())
    assert causes.count("compaction") == 1
