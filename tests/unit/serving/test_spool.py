import fcntl
import os
from pathlib import Path

import pytest

from serving import spool
from serving.spool import MAGIC, Record, Spool, adopted, head, read

RECORDS = [
    Record(b'{"n":0}', b"first image"),
    Record(b'{"n":1}', b""),
    # An image may hold what looks like the start of a record.
    Record(b'{"n":2}', MAGIC + b"\x05\0\0\0" * 3 + MAGIC),
]


def _bytes(records: list[Record]) -> bytes:
    return b"".join(head(r.header, r.image) + r.header + r.image for r in records)


def test_what_was_appended_is_read_back(tmp_path: Path) -> None:
    own = Spool(tmp_path, "one")
    for record in RECORDS:
        own.append(record.header, record.image)
    assert own.waiting() == (3, len(_bytes(RECORDS)))
    (path,) = own.closed(age=0)
    assert read(path) == spool.Contents(RECORDS, 0)
    own.drained(path)
    assert own.waiting() == (0, 0)
    assert own.closed(age=0) == []


def test_cut_anywhere_the_whole_records_before_the_cut_are_kept(tmp_path: Path) -> None:
    data, path = _bytes(RECORDS), tmp_path / "000000.log"
    ends = [len(_bytes(RECORDS[:n])) for n in range(4)]
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        contents = read(path)
        whole = sum(end <= cut for end in ends[1:])
        assert contents.records == RECORDS[:whole]
        assert bool(contents.damaged) == (cut not in ends)


def test_a_flipped_byte_costs_its_own_record_only(tmp_path: Path) -> None:
    data, path = _bytes(RECORDS), tmp_path / "000000.log"
    ends = [len(_bytes(RECORDS[:n])) for n in range(4)]
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x40
        path.write_bytes(damaged)
        hit = next(n for n in range(3) if position < ends[n + 1])
        assert read(path).records == [r for n, r in enumerate(RECORDS) if n != hit]


def test_files_are_closed_by_size_and_otherwise_only_when_nothing_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "FILE_BYTES", 100)
    own = Spool(tmp_path, "one")
    own.append(b"{}", bytes(100))
    own.append(b"{}", b"x")
    assert [p.name for p in own.closed(age=0)] == ["000000.log"]
    own.drained(own.folder / "000000.log")
    assert own.closed(age=3600) == []
    assert [p.name for p in own.closed(age=0)] == ["000001.log"]


def test_a_full_disk_leaves_no_half_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Spool(tmp_path, "one")
    own.append(b"{}", b"kept")
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, parts: real(fd, [b"".join(parts)[:9]]))
    with pytest.raises(OSError, match="disk full"):
        own.append(b"{}", b"lost")
    monkeypatch.undo()
    own.append(b"{}", b"after")
    contents = read(own.closed(age=0)[0])
    assert [r.image for r in contents.records] == [b"kept", b"after"]
    assert contents.damaged == 0


def test_a_living_worker_keeps_its_folder_and_a_dead_one_loses_it(tmp_path: Path) -> None:
    own = Spool(tmp_path, "one")
    own.append(b"{}", b"x")
    with adopted(own.folder) as files:
        assert files is None
    os.close(own._lock_fd)  # what the kernel does for a killed process
    with adopted(tmp_path / "one") as files:
        assert [p.name for p in files or []] == ["000000.log"]
        with adopted(tmp_path / "one") as second:
            assert second is None
        for path in files or []:
            path.unlink()
    assert not (tmp_path / "one").exists()


def test_a_folder_that_could_not_be_drained_stays(tmp_path: Path) -> None:
    own = Spool(tmp_path, "one")
    own.append(b"{}", b"x")
    own.close()
    with adopted(own.folder) as files:
        assert files
    assert (own.folder / "000000.log").exists()


def test_an_empty_folder_goes_with_its_worker(tmp_path: Path) -> None:
    own = Spool(tmp_path, "one")
    own.close()
    assert not own.folder.exists()


def test_a_folder_without_a_lock_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "strange").mkdir()
    with adopted(tmp_path / "strange") as files:
        assert files is None


def test_a_lock_that_was_replaced_meanwhile_is_not_taken_for_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "lock").touch()
    fd = os.open(folder / "lock", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    (folder / "lock").unlink()
    os.close(fd)
    with adopted(folder) as files:
        assert files is None


def test_folders_of_others_are_found_and_measured(tmp_path: Path) -> None:
    own, other = Spool(tmp_path, "own"), Spool(tmp_path, "other")
    other.append(b"{}", b"1234")
    assert spool.others(tmp_path, own.folder) == [other.folder]
    assert spool.size(other.folder) == len(_bytes([Record(b"{}", b"1234")]))
