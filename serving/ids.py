"""Prediction ids: UUIDv7, whose first 48 bits are the time, so that an id names its day's partition."""

import os
import time
import uuid
from datetime import UTC, datetime


def uuid7() -> uuid.UUID:
    """A new id: milliseconds since 1970 in 48 bits, then 74 random bits (RFC 9562, section 5.7)."""
    milliseconds = time.time_ns() // 1_000_000
    value = milliseconds << 80 | int.from_bytes(os.urandom(10), "big")
    return uuid.UUID(int=value & ~(0xF << 76) & ~(0b11 << 62) | 0x7 << 76 | 0b10 << 62)


def moment(identifier: uuid.UUID) -> datetime:
    """The time in an id made by `uuid7`, to the millisecond: the row's `at`."""
    return datetime.fromtimestamp((identifier.int >> 80) / 1000, UTC)


def is_uuid7(identifier: uuid.UUID) -> bool:
    return identifier.version == 7
