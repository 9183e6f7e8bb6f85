"""Segments are the same bytes for the same samples, and hold exactly what went in."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.datasets import segments
from ml.datasets.segments import Sample, Segment, SegmentUploads
from ml.errors import UnavailableError
from ml.storage import tar_members
from tests.doubles.object_store import MemoryObjectStore


def sample(data: bytes) -> Sample:
    sha256 = hashlib.sha256(data).hexdigest()
    row = {
        "sha256": sha256,
        "label": "a",
        "split": "train",
        "group_id": "g",
        "drop_id": "d-1",
        "width": 8,
        "height": 8,
        "format": "PNG",
        "grey": True,
        "brightness": 0.1 + 0.2,
        "contrast": 0.3,
    }
    return row | {"size": len(data)}, tar_members.encode(sha256, "PNG", data)


IMAGES = [bytes([i]) * (1 + 700 * i) for i in range(9)]
SAMPLES = [sample(data) for data in IMAGES]


def write(limit: int) -> tuple[MemoryObjectStore, list[Segment]]:
    store = MemoryObjectStore()
    with SegmentUploads(store) as uploads:
        return store, [segment for segment, _ in segments.write(uploads, iter(SAMPLES), limit)]


@pytest.mark.parametrize("limit", [1, 5_000, 10_000_000])
def test_the_same_samples_give_the_same_bytes(limit: int) -> None:
    (first, made), (second, again) = write(limit), write(limit)
    assert first.objects == second.objects
    assert made == again


@pytest.mark.parametrize("limit", [1, 5_000, 10_000_000])
def test_every_sample_is_where_the_index_says(limit: int) -> None:
    store, made = write(limit)
    found = {}
    for segment in made:
        tar = store.objects[segment.tar_key]
        assert hashlib.sha256(tar).hexdigest() == segment.tar_sha256
        assert len(tar) == segment.bytes
        with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
            names = opened.getnames()
        rows = segments.read_index(store.objects[segment.index_key])
        assert len(rows) == segment.samples
        assert names == [f"{r['sha256']}.png" for r in rows]
        for r in rows:
            found[r["sha256"]] = tar[r["offset"] : r["offset"] + r["size"]]
    assert found == {hashlib.sha256(data).hexdigest(): data for data in IMAGES}


def test_a_segment_closes_at_its_limit() -> None:
    assert len(write(1)[1]) == len(SAMPLES)
    assert len(write(10_000_000)[1]) == 1
    assert 1 < len(write(5_000)[1]) < len(SAMPLES)


def test_nothing_makes_no_segment() -> None:
    with SegmentUploads(MemoryObjectStore()) as uploads:
        assert list(segments.write(uploads, iter(()), 10)) == []


def test_what_befalls_an_upload_is_told() -> None:
    class Full(MemoryObjectStore):
        def put_file(self, key: str, path: Path, content_type: str = "") -> None:
            raise UnavailableError("the disk is full")

    with pytest.raises(UnavailableError, match="full"), SegmentUploads(Full()) as uploads:
        list(segments.write(uploads, iter(SAMPLES), 10_000_000))


@given(st.binary(max_size=3000), st.sampled_from(["JPEG", "PNG", "WEBP"]))
def test_members_are_what_tarfile_writes(data: bytes, kind: str) -> None:
    digest, buffer = hashlib.sha256(data).hexdigest(), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        info = tarfile.TarInfo(f"{digest}.{kind.lower()}")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    member = tar_members.encode(digest, kind, data)
    assert member + tar_members.end_of_archive(len(member)) == buffer.getvalue()
    assert len(member) == tar_members.member_size(len(data))
