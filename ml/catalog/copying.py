"""COPY through psycopg2; SQLAlchemy does not support it."""

from contextlib import closing
from typing import IO, Any, cast

import psycopg2
from sqlalchemy import Connection

from ml.errors import UnavailableError


def copy_in(connection: Connection, statement: str, file: IO[bytes]) -> None:
    """Run ``copy … from stdin`` within the caller's transaction.

    Raises:
        UnavailableError: the connection was lost; nothing was inserted.
    """
    try:
        with closing(cast("Any", connection.connection).cursor()) as cursor:  # psycopg2's cursor
            cursor.copy_expert(statement, file)
    except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
        raise UnavailableError(f"the catalog database does not answer: {error}") from error
