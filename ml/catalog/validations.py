"""Validation results: one row per suite and subject, never deleted; later drops are compared with earlier ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.dialects.postgresql import insert

from ml.catalog.engine import transaction
from ml.catalog.tables import drops, validations


@dataclass(frozen=True, slots=True)
class ValidationRecord:
    """A row of `validations`; `record` says what the fields hold."""

    suite: str
    subject: str
    passed: bool
    failures: list[str]
    warnings: list[str]
    figures: dict[str, Any]
    report_key: str | None
    created_at: datetime


def record(
    engine: Engine,
    suite: str,
    subject: str,
    *,
    failures: Sequence[str],
    warnings: Sequence[str],
    figures: Mapping[str, Any],
    report_key: str | None,
) -> None:
    """Store a result; validating a subject again, for example after a crash, replaces it.

    Args:
        suite: ``drop``, ``dataset`` or ``predictions``.
        subject: id of the drop or dataset version, or the time of a validation of the prediction log.
        failures: messages of failed expectations; it passed if there are none.
        warnings: messages of expectations that only warn.
        figures: metrics of the subject as a whole.
        report_key: key of the Data Docs page, if any.
    """
    row = {"passed": not failures, "failures": list(failures), "warnings": list(warnings)}
    row |= {"figures": dict(figures), "report_key": report_key, "created_at": func.now()}
    statement = insert(validations).values(suite=suite, subject=subject, **row)
    with transaction(engine) as connection:
        connection.execute(statement.on_conflict_do_update(index_elements=["suite", "subject"], set_=row))


def newest(engine: Engine, suite: str) -> ValidationRecord | None:
    """The latest result of a suite."""
    query = select(validations).where(validations.c.suite == suite).order_by(validations.c.created_at.desc()).limit(1)
    with transaction(engine) as connection:
        row = connection.execute(query).mappings().first()
    return ValidationRecord(**row) if row else None


def get(engine: Engine, suite: str, subject: str) -> ValidationRecord | None:
    """The result of a suite for a subject, if any."""
    query = select(validations).where(validations.c.suite == suite, validations.c.subject == subject)
    with transaction(engine) as connection:
        row = connection.execute(query).mappings().first()
    return ValidationRecord(**row) if row else None


def of_accepted_drops(connection: Connection, limit: int) -> tuple[Mapping[str, Any], ...]:
    """The figures of the most recently accepted drops, newest first."""
    query = (
        select(validations.c.figures)
        .join(drops, drops.c.id == validations.c.subject)
        .where(validations.c.suite == "drop", drops.c.status == "accepted", drops.c.reverted_at.is_(None))
        .order_by(validations.c.created_at.desc())
        .limit(limit)
    )
    return tuple(connection.execute(query).scalars())
