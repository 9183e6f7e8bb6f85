"""Erased images leave the spool, also while nothing can be uploaded."""

import hashlib
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from ml.errors import UnavailableError
from serving.prediction_log import erased, spool
from serving.prediction_log.erased import SpoolCleaner
from serving.prediction_log.log import PredictionLog
from serving.prediction_log.retention import ImagePolicy
from serving.prediction_log.spool import MemberRange, Spool
from serving.telemetry.metrics import Metrics
from tests.unit.serving.test_prediction_log import prediction

SECRET, OTHER = b"secret" * 200, b"other" * 100


def logged(root: Path, name: str, *images: bytes) -> Spool:
    own = Spool(root, name)
    log = PredictionLog(own, 10_000_000, ImagePolicy("all"), Metrics({}))
    for image in images:
        log.append(prediction(image))
    return own


def test_members_are_overwritten_and_the_others_stay(tmp_path: Path) -> None:
    own = logged(tmp_path, "one", OTHER, SECRET, SECRET, OTHER + b"x")
    (path,) = own.closed_files(0)
    tar = path.with_suffix(spool.SUFFIX)
    digest_by_member = erased.members(spool.decode(path.read_bytes()).records)
    places = [m for m, d in digest_by_member.items() if d == hashlib.sha256(SECRET).hexdigest()]
    assert len(places) == 1
    before = tar.read_bytes()
    assert erased.overwrite(tar, places) == 1
    after = tar.read_bytes()
    assert SECRET in before
    assert SECRET[:50] not in after
    assert len(after) == len(before)
    for member, digest in digest_by_member.items():
        if member not in places:
            assert hashlib.sha256(after[member.offset :][: member.size]).hexdigest() == digest


def test_a_tar_that_is_gone_or_cut_off_is_no_error(tmp_path: Path) -> None:
    assert erased.overwrite(tmp_path / "gone.tar", [MemberRange(512, 5)]) == 0
    data = bytearray(600)
    erased.blank(data, [MemberRange(512, 500)])
    assert data == bytes(600)


def test_an_unreachable_catalog_confirms_nothing(tmp_path: Path) -> None:
    own = logged(tmp_path, "one", SECRET)
    cleaner = SpoolCleaner(own, create_engine("postgresql+psycopg2://nobody@127.0.0.1:1/none"))
    with pytest.raises(UnavailableError):
        cleaner.clean()
    assert cleaner.confirmed == 0
