"""Many rows into a table at once: gathered in a file, then one COPY, several times as fast as INSERT."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import IO, Any, Final, cast

import psycopg2
import pyarrow as pa
import pyarrow.csv
from sqlalchemy import Connection

from ml.errors import UnavailableError

_CSV: Final = pyarrow.csv.WriteOptions(include_header=False)  # null is empty, an empty text is quoted: as COPY has it
_IN_MEMORY: Final = 4_000_000


class Rows:
    """Rows that wait for their transaction; memory holds a few megabytes of them."""

    def __init__(self, file: IO[bytes], table: str, columns: Sequence[str]) -> None:
        self._file, self._table, self._columns = file, table, tuple(columns)

    def add(self, rows: pa.Table) -> None:
        """Columns are taken by name."""
        if len(rows):
            pyarrow.csv.write_csv(rows.select(self._columns), self._file, _CSV)

    def copy(self, connection: Connection) -> None:
        """Insert them within the caller's transaction.

        Raises:
            UnavailableError: the database went away; nothing was inserted.
        """
        self._file.seek(0)
        statement = f"copy {self._table} ({', '.join(self._columns)}) from stdin (format csv)"
        try:
            with closing(cast("Any", connection.connection).cursor()) as cursor:  # psycopg2's own, which knows COPY
                cursor.copy_expert(statement, self._file)
        except psycopg2.OperationalError as error:
            raise UnavailableError(f"the catalog database does not answer: {error}") from error


@contextmanager
def rows(table: str, columns: Sequence[str]) -> Iterator[Rows]:
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
        yield Rows(file, table, columns)
