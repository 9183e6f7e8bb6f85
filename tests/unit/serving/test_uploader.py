"""Feedback that was spooled keeps who gave it and what their key was allowed then."""

from dataclasses import replace
from datetime import UTC, datetime

import orjson

from ml.catalog.feedback import FeedbackRecord
from serving.prediction_log.log import timestamp_of, uuid7
from serving.prediction_log.uploader import _feedback_record

GIVEN = uuid7()
RECORD = FeedbackRecord(
    GIVEN, timestamp_of(GIVEN), None, "lab", "cat", "ann", "sure", datetime.now(UTC), key_id="a1b2", level="annotate"
)


def test_identity_and_level_go_through_the_spool() -> None:
    assert _feedback_record(orjson.dumps(RECORD)) == RECORD


def test_what_an_earlier_version_spooled_only_proposes() -> None:
    earlier = {name: value for name, value in vars(RECORD).items() if name not in ("key_id", "level")}
    assert _feedback_record(orjson.dumps(earlier)) == replace(RECORD, key_id="", level="propose")
