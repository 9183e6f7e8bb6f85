import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml.errors import IntegrityError, NotFoundError, UnavailableError
from ml.models import bundle
from serving.rollout.bundle_loader import MAX_BUNDLES, BundleLoader, DesiredDeployment
from tests.bundles import make_bundle
from tests.doubles.object_store import MemoryObjectStore


def order(digest: str, prefix: str = "p", deployment_id: int = 1) -> DesiredDeployment:
    return DesiredDeployment(
        deployment_id=deployment_id,
        model_version=deployment_id,
        bundle_prefix=prefix,
        bundle_digest=digest,
        since=datetime.now(UTC),
    )


@pytest.fixture
def bucket() -> MemoryObjectStore:
    return MemoryObjectStore()


@pytest.fixture
def loader(tmp_path: Path, bucket: MemoryObjectStore) -> BundleLoader:
    return BundleLoader(tmp_path / "bundles", bucket, 1e-3)


def put(tmp_path: Path, bucket: MemoryObjectStore, prefix: str = "p", **changes: object) -> DesiredDeployment:
    folder = tmp_path / f"made-{prefix}"
    options: dict[str, object] = {"labels": ("a", "b"), **changes}
    digest = make_bundle(folder, **options)  # type: ignore[arg-type]
    for path in folder.iterdir():
        bucket.put_file(f"{prefix}/{path.name}", path)
    return order(digest, prefix)


def test_a_good_bundle_is_fetched_once(tmp_path: Path, bucket: MemoryObjectStore, loader: BundleLoader) -> None:
    wanted = put(tmp_path, bucket)
    assert loader.load(wanted).info.labels == ("a", "b")
    reads = len(bucket.read_keys)
    assert reads == 3
    bucket.available = False
    loader.load(wanted)
    assert len(bucket.read_keys) == reads


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"outputs": 3}, "takes and gives"),
        ({"bias": float("nan")}, "probes"),
        ({"probe_shift": 0.01}, "probes differ"),
        ({"probe_shift": float("nan")}, "probes"),
        ({"labels": ("a", "a")}, "not distinct"),
        ({"labels": ("a", "b\0")}, "not printable"),
        ({"labels": ("a", " ")}, "empty"),
    ],
)
def test_a_bundle_that_is_wrong_inside_is_refused(
    tmp_path: Path, bucket: MemoryObjectStore, loader: BundleLoader, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(IntegrityError, match=words):
        loader.load(put(tmp_path, bucket, **changes))


@pytest.mark.parametrize("name", [bundle.INFO, bundle.MODEL, bundle.PROBES])
def test_a_changed_byte_is_refused(tmp_path: Path, bucket: MemoryObjectStore, loader: BundleLoader, name: str) -> None:
    wanted = put(tmp_path, bucket)
    data = bytearray(bucket.objects[f"p/{name}"])
    data[len(data) // 2] ^= 1
    bucket.objects[f"p/{name}"] = bytes(data)
    with pytest.raises(IntegrityError, match="SHA-256"):
        loader.load(wanted)


@pytest.mark.parametrize("model", [b"", b"not onnx", b"\x08\x07" * 50])
def test_a_model_that_is_no_onnx_is_refused(
    tmp_path: Path, bucket: MemoryObjectStore, loader: BundleLoader, model: bytes
) -> None:
    with pytest.raises(IntegrityError):
        loader.load(_rewritten(tmp_path, bucket, bundle.MODEL, model))


def test_probes_that_do_not_fit_the_model_are_refused(
    tmp_path: Path, bucket: MemoryObjectStore, loader: BundleLoader
) -> None:
    path = tmp_path / "probes.npz"
    np.savez(path, images=np.zeros((2, 5, 5, 1), np.uint8), probabilities=np.zeros((2, 2), np.float32))
    with pytest.raises(IntegrityError):
        loader.load(_rewritten(tmp_path, bucket, bundle.PROBES, path.read_bytes()))


def test_pickled_probes_are_never_unpickled(tmp_path: Path, bucket: MemoryObjectStore, loader: BundleLoader) -> None:
    path = tmp_path / "probes.npz"
    np.savez(path, images=np.array([object()]), probabilities=np.zeros(1))
    with pytest.raises(IntegrityError, match="cannot be read"):
        loader.load(_rewritten(tmp_path, bucket, bundle.PROBES, path.read_bytes()))


def test_a_digest_that_is_a_path_is_refused(loader: BundleLoader) -> None:
    with pytest.raises(IntegrityError, match="no SHA-256"):
        loader.load(order("../../etc"))


def test_a_missing_bundle_and_a_missing_bucket_are_told_apart(
    tmp_path: Path, bucket: MemoryObjectStore, loader: BundleLoader
) -> None:
    with pytest.raises(NotFoundError):
        loader.load(order("0" * 64))
    bucket.available = False
    with pytest.raises(UnavailableError):
        loader.load(order("0" * 64))


def test_a_bundle_damaged_on_disk_is_fetched_anew(
    tmp_path: Path, bucket: MemoryObjectStore, loader: BundleLoader
) -> None:
    wanted = put(tmp_path, bucket)
    loader.load(wanted)
    (tmp_path / "bundles" / wanted.bundle_digest / bundle.MODEL).write_bytes(b"rot")
    assert loader.load(wanted).info.labels == ("a", "b")


def test_what_served_last_is_remembered_whole(tmp_path: Path, bucket: MemoryObjectStore, loader: BundleLoader) -> None:
    assert loader.read_last_good() is None
    wanted = put(tmp_path, bucket)
    loader.load(wanted)
    loader.save_last_good(wanted)
    assert loader.read_last_good() == wanted
    (tmp_path / "bundles" / "last-good.json").write_text("{")
    with pytest.raises(IntegrityError):
        loader.read_last_good()


def test_old_bundles_are_forgotten_but_not_the_newest(
    tmp_path: Path, bucket: MemoryObjectStore, loader: BundleLoader
) -> None:
    orders = [put(tmp_path, bucket, f"p{i}", seed=i) for i in range(MAX_BUNDLES + 2)]
    for wanted in orders:
        loader.load(wanted)
    kept = {p.name for p in (tmp_path / "bundles").iterdir() if p.is_dir()}
    assert kept == {o.bundle_digest for o in orders[-MAX_BUNDLES:]}


def _rewritten(tmp_path: Path, bucket: MemoryObjectStore, name: str, data: bytes) -> DesiredDeployment:
    """A bundle whose file holds `data` and whose checksums say that it should."""
    wanted = put(tmp_path, bucket)
    info = json.loads(bucket.objects[f"p/{bundle.INFO}"])
    info["files"][name] = bundle.digest(data)
    bucket.objects |= {f"p/{name}": data, f"p/{bundle.INFO}": json.dumps(info).encode()}
    return order(bundle.digest(bucket.objects[f"p/{bundle.INFO}"]), wanted.bundle_prefix)
