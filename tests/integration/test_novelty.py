"""What counts as new to a champion: samples and labels, however segments and names change."""

from pathlib import Path

import pytest

from ml.context import Context
from ml.datasets import classes, loader, versions
from ml.erasure import erase, selection
from ml.training.data import novelty
from tests.integration.test_classes import WHO, drop


def newest(ctx: Context) -> str:
    version = versions.latest(ctx)
    assert version is not None
    return version.id


def new_labels(ctx: Context, known: str) -> list[str]:
    """Labels of the training samples that are new since version `known`."""
    now = newest(ctx)
    train = loader.load(ctx, now, "train", 24, 1)
    new = novelty.is_new(ctx, train, now, known)
    return sorted(train.classes[label] for label, is_new in zip(train.labels, new, strict=True) if is_new)


def count(ctx: Context) -> int:
    return len(loader.load(ctx, newest(ctx), "train", 24, 1))


def test_only_what_came_is_new_and_a_new_name_is_not(context: Context) -> None:
    drop(context, "one", {f"cat/{i}.png": i for i in range(20)} | {f"dog/{i}.png": i for i in range(20, 40)})
    first = newest(context)
    assert new_labels(context, first) == []
    classes.rename(context, "cat", "kitty", **WHO)
    assert new_labels(context, first) == []
    drop(context, "two", {f"cow/{i}.png": i for i in range(40, 60)})
    added = count(context) - len(loader.load(context, first, "train", 24, 1))
    assert new_labels(context, first) == ["cow"] * added
    second = newest(context)
    classes.merge(context, ["dog", "kitty"], "pet", **WHO)
    assert new_labels(context, second) == []
    assert new_labels(context, first) == ["cow"] * added
    assert new_labels(context, "0" * 64) == sorted(["cow"] * added + ["pet"] * (count(context) - added))


def test_a_corrected_label_is_new(context: Context) -> None:
    drop(context, "one", {f"cat/{i}.png": i for i in range(20)} | {f"dog/{i}.png": i for i in range(20, 40)})
    first = newest(context)
    train = loader.load(context, first, "train", 24, 1)
    chosen = [d for d, label in zip(train.sha256, train.labels, strict=True) if train.classes[label] == "cat"]
    relabels = {d: "wolf" if d == chosen[0] else "lion" for d in _of(context, "cat")}
    classes.split(context, "cat", relabels, **WHO)
    assert new_labels(context, first) == sorted(["wolf"] + ["lion"] * (len(chosen) - 1))


def _of(ctx: Context, label: str) -> list[str]:
    parts = [loader.load(ctx, newest(ctx), split, 24, 1) for split in ("train", "validation", "holdout")]
    return [d for p in parts for d, index in zip(p.sha256, p.labels, strict=True) if p.classes[index] == label]


@pytest.mark.parametrize("cached", [True, False])
def test_an_erasure_makes_nothing_new(context_with_mlflow: Context, cached: bool) -> None:
    ctx = context_with_mlflow
    drop(ctx, "one", {f"cat/{i}.png": i for i in range(20)} | {f"dog/{i}.png": i for i in range(20, 40)})
    first = newest(ctx)
    before = set(versions.manifest(ctx, first).segments)
    drop(ctx, "two", {f"cow/{i}.png": i for i in range(40, 60)})
    train = loader.load(ctx, newest(ctx), "train", 24, 1)
    erase.erase(ctx, selection.of_hashes([train.sha256[0]]), **WHO)
    after = set(versions.manifest(ctx, newest(ctx)).segments)
    assert not before <= after, "the segment was rewritten"
    if not cached:
        for path in Path(ctx.settings.home / "cache" / "segments").iterdir():
            path.unlink()
    assert set(new_labels(ctx, first)) == {"cow"}
