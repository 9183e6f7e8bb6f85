"""Damage is found."""

import hashlib
from pathlib import Path

import pytest

from ml.context import Context
from ml.datasets import loader, verify, versions
from ml.datasets.versions import Manifest
from ml.errors import IntegrityError
from tests.unit.datasets.stored import A2, store_manifest


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
