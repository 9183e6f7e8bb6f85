"""Damage is found, and an erasure finds what it concerns."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from ml.context import Context
from ml.datasets import erase, loader, verify, versions
from ml.datasets.versions import Manifest
from ml.errors import IntegrityError
from tests.unit.datasets.stored import A1, A2, A3, B1, B2, store_changed, store_manifest


def test_a_damaged_manifest_is_refused(ctx: Context, manifest: Manifest) -> None:
    version = store_manifest(ctx, manifest)
    ctx.store.put(versions.key(version), manifest.to_bytes().replace(b'"a"', b'"x"'))
    with pytest.raises(IntegrityError, match=version):
        versions.manifest(ctx, version)
    (problem,) = verify.problems(ctx, version)
    assert "damaged or replaced" in problem


def test_verification_names_the_damaged_tar_and_the_damaged_sample(
    ctx: Context, manifest: Manifest, tmp_path: Path
) -> None:
    segment = manifest.segments[0]
    index = (ctx.settings.home / "cache" / "segments" / f"{segment}.parquet").read_bytes()
    path = ctx.settings.home / "cache" / "segments" / f"{segment}.tar"
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert list(verify._check_tar(path, "key", expected, index)) == []
    row = loader.index(ctx, segment)[1]
    data = bytearray(path.read_bytes())
    data[row["offset"] + 20] ^= 1
    path.write_bytes(data)
    problems = list(verify._check_tar(path, "key", expected, index))
    assert [problem.partition(" has")[0] for problem in problems] == [
        "key",
        f"sample {A2.sha256} in key at {row['offset']}",
    ]


def test_packing_a_segment_again_gives_its_id_unless_something_changed(ctx: Context, manifest: Manifest) -> None:
    segment = manifest.segments[0]
    assert verify.repacked_id(ctx, segment) == segment
    path = ctx.settings.home / "cache" / "segments" / f"{segment}.tar"
    data = bytearray(path.read_bytes())
    data[loader.index(ctx, segment)[2]["offset"] + 20] ^= 1
    path.write_bytes(data)
    assert verify.repacked_id(ctx, segment) != segment


def test_an_erasure_names_the_models_that_saw_a_sample(ctx: Context, manifest: Manifest) -> None:
    whole, without_b1 = store_manifest(ctx, manifest), store_changed(ctx, manifest)
    first_only = store_manifest(ctx, replace(manifest, segments=manifest.segments[:1]))
    for version, dataset in ((1, first_only), (2, whole), (3, without_b1), (4, "gone")):
        ctx.registry.add(version, "p", "x", dataset_version=dataset)  # type: ignore[attr-defined]
    ctx.registry.add(5, "p", "x")  # type: ignore[attr-defined]
    assert erase._models(ctx, {B1.sha256}) == [2]
    assert erase._models(ctx, {A1.sha256}) == [1, 2, 3]
    assert erase._models(ctx, {A2.sha256}) == [1, 2, 3]
    assert erase._models(ctx, {A3.sha256, B2.sha256}) == []  # the holdout never reaches training
    assert erase._models(ctx, {"0" * 64}) == []


def test_what_remains_of_a_segment_is_the_rest_in_order(ctx: Context, manifest: Manifest) -> None:
    rest = list(erase._remaining(ctx, manifest.segments[0], {A2.sha256, B1.sha256}))
    assert [row["sha256"] for row, _ in rest] == [A1.sha256, A3.sha256]
    assert all(picture.png in bytes(member) for (_, member), picture in zip(rest, (A1, A3), strict=True))
