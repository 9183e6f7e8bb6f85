import time
import uuid
from datetime import UTC, datetime

from serving.prediction_log.log import is_uuid7, timestamp_of, uuid7


def test_ids_are_uuid7_in_order_of_time_and_distinct() -> None:
    first = uuid7()
    time.sleep(0.002)
    later = uuid7()
    assert first.version == 7
    assert first.variant == uuid.RFC_4122
    assert first < later
    assert len({uuid7() for _ in range(10_000)}) == 10_000


def test_the_time_is_in_the_id() -> None:
    before = datetime.now(UTC).timestamp()
    timestamp = timestamp_of(uuid7()).timestamp()
    assert before - 0.001 <= timestamp <= datetime.now(UTC).timestamp()


def test_other_versions_are_told_apart() -> None:
    assert is_uuid7(uuid7())
    assert not is_uuid7(uuid.uuid4())
    assert not is_uuid7(uuid.UUID(int=0))
