"""What a dataset version holds once relabels, removals and renames are applied, and how two versions differ."""

import json
from dataclasses import replace

from ml.context import Context
from ml.datasets import contents, export
from ml.datasets.versions import Manifest
from tests.unit.datasets.stored import A1, A2, A3, B1, B2, Picture, store_changed, store_manifest, store_segment

C1 = Picture(60, "c", drop="drop-3")


def test_counts_are_by_class_and_split(ctx: Context, manifest: Manifest) -> None:
    assert contents.counts(ctx, store_manifest(ctx, manifest)) == {
        "a": {"train": 1, "validation": 1, "holdout": 1},
        "b": {"train": 1, "holdout": 1},
    }


def test_counts_follow_relabels_removals_and_renames(ctx: Context, manifest: Manifest) -> None:
    assert contents.counts(ctx, store_changed(ctx, manifest)) == {
        "a": {"validation": 1, "holdout": 1},
        "z": {"train": 1, "holdout": 1},
    }
    renamed = replace(manifest, classes=("a", "z"), class_map={"b": "z"})
    assert contents.counts(ctx, store_manifest(ctx, renamed))["z"] == {"train": 1, "holdout": 1}


def test_a_class_without_samples_is_counted_as_none(ctx: Context, manifest: Manifest) -> None:
    assert contents.counts(ctx, store_manifest(ctx, replace(manifest, classes=("a", "b", "c"))))["c"] == {}


def test_drops_are_those_with_samples_in_the_version(ctx: Context, manifest: Manifest) -> None:
    assert contents.drops(ctx, store_manifest(ctx, manifest)) == ["drop-1", "drop-2"]


def test_a_new_segment_is_what_was_added(ctx: Context, manifest: Manifest) -> None:
    before = store_manifest(ctx, manifest)
    segments = (*manifest.segments, store_segment(ctx, [C1]))
    after = store_manifest(ctx, replace(manifest, segments=segments, classes=("a", "b", "c")))
    forth, back = contents.difference(ctx, before, after), contents.difference(ctx, after, before)
    assert (forth.added, forth.removed, forth.relabelled) == ({"c": 1}, {}, {})
    assert (back.added, back.removed, back.relabelled) == ({}, {"c": 1}, {})


def test_relabels_removals_and_renames_are_told_apart(ctx: Context, manifest: Manifest) -> None:
    difference = contents.difference(ctx, store_manifest(ctx, manifest), store_changed(ctx, manifest))
    assert difference.added == {}
    assert difference.removed == {"b": 1}  # B1, by its class before
    assert difference.relabelled == {("a", "z"): 1, ("b", "z"): 1}  # A1, B2
    assert json.loads(json.dumps(contents.as_json(difference)))["relabelled"] == [
        {"before": "a", "after": "z", "samples": 1},
        {"before": "b", "after": "z", "samples": 1},
    ]


def test_a_sample_that_is_put_back_is_added(ctx: Context, manifest: Manifest) -> None:
    difference = contents.difference(ctx, store_changed(ctx, manifest), store_manifest(ctx, manifest))
    assert difference.added == {"b": 1}
    assert difference.removed == {}
    assert difference.relabelled == {("z", "a"): 1, ("z", "b"): 1}


def test_a_rewritten_segment_is_no_difference_but_its_relabels_are(ctx: Context, manifest: Manifest) -> None:
    before = store_manifest(ctx, manifest)
    compacted = (store_segment(ctx, [A1, A2, A3, B1, B2]),)
    same = contents.difference(ctx, before, store_manifest(ctx, replace(manifest, segments=compacted)))
    assert (same.added, same.removed, same.relabelled) == ({}, {}, {})
    relabelled = replace(manifest, segments=compacted, relabels={B2.sha256: "a"}, removals=(A1.sha256,))
    other = contents.difference(ctx, before, store_manifest(ctx, relabelled))
    assert (other.added, other.removed, other.relabelled) == ({}, {"a": 1}, {("b", "a"): 1})


def test_models_are_those_trained_on_the_version(ctx: Context) -> None:
    for version, dataset in ((1, "d1"), (2, "d2"), (3, "d1")):
        ctx.registry.add(version, "p", "x", dataset_version=dataset)  # type: ignore[attr-defined]
    assert contents.models(ctx, "d1") == [1, 3]
    assert contents.models(ctx, "d3") == []


def test_an_export_has_the_labels_of_the_version_and_the_stored_bytes(ctx: Context, manifest: Manifest) -> None:
    samples = list(export._samples(ctx, store_changed(ctx, manifest), ("train", "holdout")))
    assert [(s.sha256, s.label, s.split, s.data) for s in samples] == [
        (A1.sha256, "z", "train", A1.png),
        (A3.sha256, "a", "holdout", A3.png),
        (B2.sha256, "z", "holdout", B2.png),
    ]
