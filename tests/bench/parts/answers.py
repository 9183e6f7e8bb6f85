"""A prediction log of any size: made by Postgres itself, a day's partition at a time, indexed when it is full."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import orjson
from sqlalchemy import Engine, text

from ml.catalog import class_proposals
from ml.catalog.engine import transaction
from serving.prediction_log.log import timestamp_of, uuid7

LABELS: Final = tuple(f"class {n}" for n in range(10))
VERSIONS: Final = (1, 2, 3)
OPINIONS: Final = 200_000
_WHOLE_DAYS: Final = 2

# A UUIDv7 of the row's own time, so that id and time agree as they do in the service.
_ROWS: Final = """
insert into {name} (id, at, model_version, variant, label, probability, top, milliseconds, image_sha256,
                    image_object, image_offset, image_size, width, height, brightness, client_key, replica)
select (lpad(to_hex(ms), 12, '0') || '7' || substr(hash, 1, 3) || '8' || substr(hash, 4, 15))::uuid,
       to_timestamp(ms / 1000.0), case when n % 50 = 0 then 1 when n % 3 = 0 then 2 else 3 end, 'fp32',
       'class ' || (n * 7919) % 10, 0.1 + 0.9 * (n * 104729 % 1000) / 1000, {top}, 4.2, {sha},
       {object}, 512, 50000, 500, 375, 0.5, case when n % 100 = 0 then hash end, 'host-1-abcd'
from (select n, md5(n::text || :day) as hash, :start + n * cast(:span as bigint) / :count as ms
      from generate_series(0::bigint, :count - 1) n) rows
"""
_TOP: Final = """'[{"label": "class 1", "probability": 0.9}, {"label": "class 2", "probability": 0.05},
{"label": "class 3", "probability": 0.03}, {"label": "class 4", "probability": 0.01},
{"label": "class 5", "probability": 0.01}]'::jsonb"""
_HOURS: Final = """
insert into prediction_hours select date_trunc('hour', at, 'UTC'), model_version, label, count(*), 0, sum(brightness)
from {name} group by 1, 2, 3
"""
_FEEDBACK: Final = """
insert into feedback (prediction_id, predicted_at, label, source, key_id, level, image_sha256, queued)
select id, at, case when random() < 0.9 then label else 'class 0' end, 'bench', 'bench', 'annotate', image_sha256, true
from {name}
tablesample system (:percent) limit :count
"""


def fill(engine: Engine, rows: int, days: int) -> None:
    """So many answers, evenly over the last `days`, the last of them of today until now."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for back in range(days, -1, -1):  # today's is not full yet, so there is one more
        day = today - timedelta(days=back)
        span = min(timedelta(days=1), datetime.now(UTC) - day)
        per_day = int(rows / days * (span / timedelta(days=1))) + 1
        _fill_day(engine, day, span, per_day, whole=back < _WHOLE_DAYS)
        with transaction(engine) as connection:
            count = OPINIONS // days
            percent = min(100.0, 200.0 * count / per_day)
            statement = text(_FEEDBACK.format(name=_name(day)))
            connection.execute(statement, {"percent": percent, "count": count})
    for label in LABELS:
        class_proposals.decide(engine, label, "confirmed", actor="bench", reason="a class")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("vacuum analyze"))


def fresh(count: int) -> Iterator[bytes]:
    """Rows as the service writes them."""
    for _ in range(count):
        row_id = uuid7()
        yield orjson.dumps(
            {
                "id": row_id, "at": timestamp_of(row_id), "model_version": 3, "label": "class 1", "probability": 0.9,
                "top": [],
                "milliseconds": 4.2, "image_sha256": "0" * 64, "width": 500, "height": 375, "brightness": 0.5,
            }
        )  # fmt: skip


def _fill_day(engine: Engine, day: datetime, span: timedelta, count: int, *, whole: bool) -> None:
    name, end = _name(day), day + timedelta(days=1)
    columns = {
        "top": _TOP if whole else "'[]'::jsonb",
        "sha": "hash || hash" if whole else "''",
        "object": "'predictions/2026/01/01/host-1-abcd-000001.tar'" if whole else "null",
    }
    start = int(day.timestamp() * 1000)
    with transaction(engine) as connection:
        connection.execute(text("set local maintenance_work_mem = '512MB'"))
        connection.execute(text(f"create table {name} (like predictions including defaults including constraints)"))
        values = {"day": str(day.date()), "start": start, "span": int(span.total_seconds() * 1000), "count": count}
        connection.execute(text(_ROWS.format(name=name, **columns)), values)
        connection.execute(text(_HOURS.format(name=name)))
        connection.execute(
            text(f"alter table predictions attach partition {name} for values from ('{day}') to ('{end}')")
        )


def _name(day: datetime) -> str:
    return f"predictions_{day:%Y%m%d}"
