"""Connections to database `evergreen`, transactions, and advisory locks."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

from sqlalchemy import Connection, Engine, Function, create_engine, func, select, text
from sqlalchemy.exc import DBAPIError, OperationalError

from ml.errors import ConflictError, UnavailableError
from ml.settings import Settings


def connect(settings: Settings, pool_size: int = 5) -> Engine:
    """Create an engine; it connects on first use.

    Dead connections are replaced on check-out, so a restarted database costs one retry and no error.
    """
    return create_engine(
        settings.database_url.get_secret_value(),
        pool_size=pool_size,
        max_overflow=10,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": 5,
            "application_name": "evergreen",
            # Detects a lost host within seconds instead of TCP's default of a quarter of an hour.
            "keepalives_idle": 5,
            "keepalives_interval": 3,
            "keepalives_count": 3,
            "tcp_user_timeout": 15_000,
        },
    )


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """A transaction: committed at the end, rolled back on any error.

    Raises:
        UnavailableError: the database is unreachable or the connection was lost; nothing was committed.
    """
    try:
        with engine.begin() as connection:
            yield connection
    except OperationalError as error:
        raise UnavailableError(f"the catalog database does not answer: {error.orig}") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise UnavailableError(f"the catalog database went away: {error.orig}") from error
        raise


def limit_statements(connection: Connection, milliseconds: int) -> None:
    """End each statement of this transaction that takes longer, so that no request waits for Postgres for long."""
    connection.execute(text(f"set local statement_timeout = {int(milliseconds)}"))


@contextmanager
def advisory_lock(engine: Engine, name: str, *, wait: bool = True, may_be_lost: bool = False) -> Iterator[Connection]:
    """Hold the cluster-wide lock `name` for the block.

    The lock belongs to the session of the yielded connection, so a killed process releases it. The block may
    run transactions on other connections. If the session is lost while the block runs, so is the lock:
    commits in the block must not rely on the lock alone.

    Args:
        may_be_lost: the block takes long and is safe without the lock, so that a lost session is no error.

    Raises:
        ConflictError: the lock is held elsewhere, and `wait` is false.
        UnavailableError: the database does not answer, or the session was lost before the block ended.
    """
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    try:
        connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    except OperationalError as error:
        raise UnavailableError(f"the catalog database does not answer: {error.orig}") from error
    with connection:
        # The server notices within a minute that the host of this session is gone, and releases the lock.
        for setting, value in (("idle", 30), ("interval", 10), ("count", 3)):
            _call(connection, func.set_config(f"tcp_keepalives_{setting}", str(value), False))  # noqa: FBT003
        if wait:
            _lock_call(connection, "pg_advisory_lock", key)
        elif not _lock_call(connection, "pg_try_advisory_lock", key):
            raise ConflictError(f"the lock `{name}` is held by another process")
        try:
            yield connection
        except BaseException:
            with suppress(UnavailableError):  # the error of the block is more informative
                _lock_call(connection, "pg_advisory_unlock", key)
            raise
        with suppress(UnavailableError) if may_be_lost else nullcontext():
            _lock_call(connection, "pg_advisory_unlock", key)


def _lock_call(connection: Connection, function: str, key: int) -> object:
    return _call(connection, getattr(func, function)(key))


def _call(connection: Connection, call: Function[Any]) -> object:
    try:
        return connection.execute(select(call)).scalar()
    except DBAPIError as error:
        raise UnavailableError(f"the catalog database went away: {call.name} failed: {error.orig}") from error
