"""What suites said: one row a suite and subject, kept for good; later drops are compared with those before."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.dialects.postgresql import insert

from ml.catalog.engine import transaction
from ml.catalog.tables import drops, validations


def keep(
    engine: Engine,
    suite: str,
    subject: str,
    *,
    failures: Sequence[str],
    warnings: Sequence[str],
    figures: Mapping[str, Any],
    report_key: str | None,
) -> None:
    """Note a result; a subject that is judged again, after a kill say, has the last word only.

    Args:
        suite: ``drop``, ``dataset`` or ``predictions``.
        subject: id of the drop or dataset version, or the time of a look at the prediction log.
        failures: broken expectations in words; none: it passed.
        warnings: those that are only reported.
        figures: what was judged as a whole.
        report_key: of the Data Docs page, if there is one.
    """
    row = {"passed": not failures, "failures": list(failures), "warnings": list(warnings)}
    row |= {"figures": dict(figures), "report_key": report_key, "created_at": func.now()}
    made = insert(validations).values(suite=suite, subject=subject, **row)
    with transaction(engine) as connection:
        connection.execute(made.on_conflict_do_update(index_elements=["suite", "subject"], set_=row))


def newest(engine: Engine, suite: str) -> dict[str, Any] | None:
    """The last result of a suite."""
    query = select(validations).where(validations.c.suite == suite).order_by(validations.c.created_at.desc()).limit(1)
    with transaction(engine) as connection:
        row = connection.execute(query).mappings().first()
    return dict(row) if row else None


def get(engine: Engine, suite: str, subject: str) -> dict[str, Any] | None:
    """The result of a suite on a subject, if it was judged."""
    query = select(validations).where(validations.c.suite == suite, validations.c.subject == subject)
    with transaction(engine) as connection:
        row = connection.execute(query).mappings().first()
    return dict(row) if row else None


def of_accepted_drops(connection: Connection, limit: int) -> tuple[Mapping[str, Any], ...]:
    """The figures of the drops that were accepted last, the newest first."""
    query = (
        select(validations.c.figures)
        .join(drops, drops.c.id == validations.c.subject)
        .where(validations.c.suite == "drop", drops.c.status == "accepted")
        .order_by(validations.c.created_at.desc())
        .limit(limit)
    )
    return tuple(connection.execute(query).scalars())
