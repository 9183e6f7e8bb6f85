"""Kill -9 before every single effect of a change of classes and of an erasure."""

from collections.abc import Callable
from functools import partial

from sqlalchemy import func, select

from ml.catalog.engine import transaction
from ml.catalog.tables import class_operations, erasures, samples
from ml.context import Context
from ml.datasets import classes, loader, verify, versions
from ml.datasets.splits import SPLITS
from ml.erasure import erase, selection
from ml.ingest import ingest
from tests import mortal
from tests.doubles.registry import MemoryRegistry, install
from tests.pictures import digit_files, upload

WHO = {"actor": "ann", "reason": "asked"}


def stored(ctx: Context) -> dict[str, str]:
    """SHA-256 to label, as the catalog has it; the newest version must say the same."""
    with transaction(ctx.engine) as connection:
        known = dict(connection.execute(select(samples.c.sha256, samples.c.label)).all())
    version = versions.latest(ctx)
    assert version is not None
    assert list(verify.problems(ctx, version.id)) == []
    loaded: dict[str, str] = {}
    for split in SPLITS:
        part = loader.load(ctx, version.id, split, 8, 1)
        loaded |= {s: part.classes[label] for s, label in zip(part.sha256, part.labels, strict=True)}
    assert loaded == known
    assert version.train + version.validation + version.holdout == len(known)
    return known


def each(ctx: Context, work: Callable[[int], Callable[[Context], object]], check: Callable[[int], None]) -> int:
    """Kill the work before its first effect, its second, and so on, until it lives; check each time. How often."""
    effects, dead = 0, True
    while dead:
        dead = mortal.killed(ctx, work(effects), effects)
        check(effects)
        effects += 1
    return effects


def count(ctx: Context, table: object) -> int:
    with transaction(ctx.engine) as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())  # type: ignore[arg-type]


def test_a_change_of_classes_is_made_whole_or_not_at_all(context: Context) -> None:
    ingest(context, upload(context, "one", digit_files(0, 60)))
    before = stored(context)

    def renamed(effects: int) -> None:
        names = set(stored(context).values())
        if f"zero {effects}" not in names:
            classes.rename(context, _zero(names), f"zero {effects}", **WHO)
        assert f"zero {effects}" in set(stored(context).values())
        assert count(context, class_operations) == effects + 1

    def rename(effects: int) -> Callable[[Context], object]:
        now = _zero(set(stored(context).values()))
        return lambda ctx: classes.rename(ctx, now, f"zero {effects}", **WHO)

    times = each(context, rename, renamed)
    assert times > 2

    ones = sorted(sha for sha, label in before.items() if label == "1")

    def split(effects: int) -> Callable[[Context], object]:
        return lambda ctx: classes.split(ctx, "1", {ones[effects]: "seven"}, **WHO)

    def parted(effects: int) -> None:
        if stored(context)[ones[effects]] == "1":
            split(effects)(context)
        now = stored(context)
        assert {sha for sha, label in now.items() if label == "seven"} == set(ones[: effects + 1])
        assert now.keys() == before.keys()

    assert each(context, split, parted) > 2


def _zero(names: set[str]) -> str:
    (match,) = [name for name in names if name.startswith(("zero", "0"))]
    return match


def test_an_erasure_is_finished_wherever_it_was_killed(context: Context) -> None:
    ingest(context, upload(context, "one", digit_files(0, 60)))
    order = sorted(stored(context))

    def work(effects: int, ctx: Context) -> object:
        install(ctx, MemoryRegistry())
        return erase.erase(ctx, selection.of_hashes([order[effects]]), **WHO)

    def gone(effects: int) -> None:
        work(effects, context)
        assert sorted(stored(context)) == order[effects + 1 :]
        version = versions.latest(context)
        assert version is not None
        kept = {key for s in versions.manifest(context, version.id).segments for key in (f"segments/{s}",)}
        there = {o.key.rpartition(".")[0] for o in context.store.list("segments/")}
        assert kept <= there
        assert len(list(context.labels.list("drops/one/"))) == 60 - effects  # and the marker
        with transaction(context.engine) as connection:
            assert connection.execute(select(func.count()).where(erasures.c.finished_at.is_(None))).scalar_one() == 0

    assert each(context, lambda effects: partial(work, effects), gone) > 5
