"""Connections to database `evergreen`, and the locks that serialise its movers."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import Connection, Engine, create_engine, func, select
from sqlalchemy.exc import DBAPIError, OperationalError

from ml.errors import ConflictError, UnavailableError
from ml.settings import Settings


def connect(settings: Settings, pool_size: int = 5) -> Engine:
    """An engine; nothing is sent until it is used.

    Dead connections are replaced on check-out, so a restarted database costs one retry, no error.
    """
    return create_engine(
        settings.database_url.get_secret_value(),
        pool_size=pool_size,
        max_overflow=10,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": 5,
            "application_name": "evergreen",
            # A host that vanished is noticed within seconds, not by TCP's own patience of a quarter of an hour.
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
        UnavailableError: the database cannot be reached or went away; nothing was committed.
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


@contextmanager
def advisory_lock(engine: Engine, name: str, *, wait: bool = True) -> Iterator[Connection]:
    """Holds the cluster-wide lock `name` for the block; others wait, or do without if they say so.

    The lock belongs to the yielded connection's session, so it goes with a killed process. The
    block may run its own transactions on other connections. Should that session die while the block
    runs, the lock is lost: what the block commits must not rely on it alone.

    Raises:
        ConflictError: somebody else holds it, and `wait` is false.
        UnavailableError: the database does not answer, or the session had died when the block ended.
    """
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    try:
        connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    except OperationalError as error:
        raise UnavailableError(f"the catalog database does not answer: {error.orig}") from error
    with connection:
        if wait:
            _lock_call(connection, "pg_advisory_lock", key)
        elif not _lock_call(connection, "pg_try_advisory_lock", key):
            raise ConflictError(f"somebody else holds the lock `{name}`")
        try:
            yield connection
        except BaseException:
            with suppress(UnavailableError):  # the block's own error tells more
                _lock_call(connection, "pg_advisory_unlock", key)
            raise
        _lock_call(connection, "pg_advisory_unlock", key)


def _lock_call(connection: Connection, function: str, key: int) -> object:
    try:
        return connection.execute(select(getattr(func, function)(key))).scalar()
    except DBAPIError as error:
        raise UnavailableError(f"the catalog database went away: {function} failed: {error.orig}") from error
