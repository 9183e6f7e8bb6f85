import fcntl
import io
import os
import tarfile
from pathlib import Path

import pytest

from ml.storage import tar_members
from serving.prediction_log import retention, spool
from serving.prediction_log.spool import MAGIC, MemberRange, Spool, SpoolRecord, adopt, decode, encode

RECORDS = [
    SpoolRecord("prediction", b'{"n":0}', MemberRange(512, 11)),
    SpoolRecord("feedback", b'{"n":1}', None),
    # A row may hold what looks like the start of a record.
    SpoolRecord("prediction", MAGIC + b"p\x05\0\0\0" * 3 + MAGIC, None),
]


def _bytes(records: list[SpoolRecord]) -> bytes:
    return b"".join(encode(r.kind, r.row, r.member) for r in records)


def content(path: Path) -> list[tuple[bytes, bytes | None]]:
    """Each row with its image, as the drain finds them."""
    records = decode(path.read_bytes()).records
    images = path.with_suffix(".tar")
    data = images.read_bytes() if images.exists() else b""
    return [(r.row, data[r.member.offset :][: r.member.size] if r.member else None) for r in records]


def filled(root: Path, name: str, *images: bytes, age: int = 0) -> Spool:
    """A worker's folder with a closed pair an image; `age` in seconds."""
    own = Spool(root, name, file_bytes=1)
    for number, image in enumerate(images):
        own.append("prediction", b"{}", f"{name}-{number}", image)
        path = own.folder / f"{number:06}.tar"
        os.utime(path, (1000 - age + number, 1000 - age + number))
    return own


def test_what_was_appended_is_read_back(tmp_path: Path) -> None:
    own = Spool(tmp_path, "one")
    own.append("prediction", b"0", "a", b"first")
    own.append("prediction", b"1", "b", b"x" * 600)
    own.append("prediction", b"2", "a", b"first")
    own.append("feedback", b"3")
    rows, size = own.pending()
    (path,) = own.closed_files(age=0)
    assert content(path) == [(b"0", b"first"), (b"1", b"x" * 600), (b"2", b"first"), (b"3", None)]
    assert (rows, size) == (4, spool.size(own.folder)) == own.pending()
    places = [r.member for r in decode(path.read_bytes()).records if r.member]
    whole = spool.finished_tar(path.with_suffix(".tar"), places)
    with tarfile.open(fileobj=io.BytesIO(whole)) as opened:
        assert {m.name: opened.extractfile(m).read() for m in opened} == {"a": b"first", "b": b"x" * 600}  # type: ignore[union-attr]
    own.remove(path)
    assert own.pending() == (0, 0)
    assert own.closed_files(age=0) == []
    assert [p.name for p in own.folder.iterdir()] == ["lock"]


def test_cut_anywhere_the_whole_records_before_the_cut_are_kept() -> None:
    data = _bytes(RECORDS)
    ends = [len(_bytes(RECORDS[:n])) for n in range(4)]
    for cut in range(len(data) + 1):
        contents = decode(data[:cut])
        whole = sum(end <= cut for end in ends[1:])
        assert contents.records == RECORDS[:whole]
        assert bool(contents.damaged) == (cut not in ends)


def test_a_flipped_byte_costs_its_own_record_only() -> None:
    data = _bytes(RECORDS)
    ends = [len(_bytes(RECORDS[:n])) for n in range(4)]
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x40
        hit = next(n for n in range(3) if position < ends[n + 1])
        assert decode(bytes(damaged)).records == [r for n, r in enumerate(RECORDS) if n != hit]


def test_a_tar_is_the_same_whether_its_worker_closed_it_or_was_killed_in_the_middle(tmp_path: Path) -> None:
    own = Spool(tmp_path, "one")
    own.append("prediction", b"0", "a", b"whole")
    (path,) = own.closed_files(age=0)
    places = [r.member for r in decode(path.read_bytes()).records if r.member]
    images = path.with_suffix(".tar")
    before = spool.finished_tar(images, places)
    with images.open("ab") as more:
        more.write(tar_members.header("b", 10_000) + b"cut o")
    assert spool.finished_tar(images, places) == before
    assert spool.count(images) == 1


def test_files_are_closed_by_size_and_otherwise_only_when_nothing_waits(tmp_path: Path) -> None:
    own = Spool(tmp_path, "one", file_bytes=1000)
    own.append("prediction", b"{}", "a", bytes(1000))
    own.append("prediction", b"{}")
    assert [p.name for p in own.closed_files(age=0)] == ["000000.rows"]
    own.remove(own.folder / "000000.rows")
    assert own.closed_files(age=3600) == []
    assert [p.name for p in own.closed_files(age=0)] == ["000001.rows"]


@pytest.mark.parametrize("image", [b"", b"image"])
def test_a_full_disk_leaves_no_half_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: bytes) -> None:
    own = Spool(tmp_path, "one")
    own.append("prediction", b"before", "a", b"kept")
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, dependencies: real(fd, [b"".join(dependencies)[:9]]))
    with pytest.raises(OSError, match="disk full"):
        own.append("prediction", b"lost", "b", image)
    monkeypatch.undo()
    own.append("prediction", b"after", "c", b"kept too")
    (path,) = own.closed_files(age=0)
    assert content(path) == [(b"before", b"kept"), (b"after", b"kept too")]
    assert decode(path.read_bytes()).damaged == 0


def test_a_living_worker_keeps_its_folder_and_a_dead_one_loses_it(tmp_path: Path) -> None:
    own = Spool(tmp_path, "one")
    own.append("prediction", b"{}", "a", b"x")
    with adopt(own.folder) as files:
        assert files is None
    os.close(own._lock_fd)  # what the kernel does for a killed process
    with adopt(tmp_path / "one") as files:
        assert [p.name for p in files or []] == ["000000.rows"]
        with adopt(tmp_path / "one") as second:
            assert second is None
        for path in files or []:
            path.unlink()  # killed here, before the images went: they go with the folder
    assert not (tmp_path / "one").exists()


def test_a_folder_that_could_not_be_drained_stays(tmp_path: Path) -> None:
    own = Spool(tmp_path, "one")
    own.append("prediction", b"{}", "a", b"x")
    own.close()
    with adopt(own.folder) as files:
        assert files
    assert sorted(p.name for p in own.folder.iterdir()) == ["000000.rows", "000000.tar", "lock"]


def test_an_empty_folder_goes_with_its_worker(tmp_path: Path) -> None:
    own = Spool(tmp_path, "one")
    own.close()
    assert not own.folder.exists()


def test_a_folder_without_a_lock_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "strange").mkdir()
    with adopt(tmp_path / "strange") as files:
        assert files is None


def test_a_lock_that_was_replaced_meanwhile_is_not_taken_for_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "lock").touch()
    fd = os.open(folder / "lock", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    (folder / "lock").unlink()
    os.close(fd)
    with adopt(folder) as files:
        assert files is None


def test_folders_of_others_are_found_and_measured(tmp_path: Path) -> None:
    own, other = Spool(tmp_path, "own"), Spool(tmp_path, "other")
    other.append("prediction", b"{}", "a", b"1234")
    assert spool.other_folders(tmp_path, own.folder) == [other.folder]
    assert spool.size(other.folder) == other.pending()[1]


def test_the_oldest_images_of_all_workers_go_first_and_rows_stay(tmp_path: Path) -> None:
    young, old = filled(tmp_path, "a", b"1", b"2", b"3"), filled(tmp_path, "z", b"4", b"5", b"6", age=100)
    each = 2 * spool.BLOCK
    assert retention.shed_images(tmp_path, each + 1) == (2, 2 * each)
    old.refresh_image_bytes()
    assert [content(p) for p in old.closed_files(age=0)] == [[(b"{}", b"")], [(b"{}", b"")], [(b"{}", b"6")]]
    assert [content(p) for p in young.closed_files(age=0)] == [[(b"{}", b"1")], [(b"{}", b"2")], [(b"{}", b"3")]]
    assert old.pending() == (3, spool.size(old.folder))
    # A folder's newest pair is let be, however much is asked for.
    assert retention.shed_images(tmp_path, 10**9) == (2, 2 * each)
