"""Bulk inserts: rows are buffered in a file, then inserted by one COPY, several times as fast as INSERT."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Final

import pyarrow as pa
import pyarrow.csv
from sqlalchemy import Connection

from ml.catalog.copying import copy_in

_CSV: Final = pyarrow.csv.WriteOptions(include_header=False)  # as COPY expects: null is empty, empty text is quoted
_IN_MEMORY: Final = 4_000_000


class RowBuffer:
    """Rows to insert in a later transaction; a few megabytes stay in memory, the rest in a file."""

    def __init__(self, file: IO[bytes], table: str, columns: Sequence[str]) -> None:
        self._file, self._table, self._columns = file, table, tuple(columns)

    def add(self, rows: pa.Table) -> None:
        """Append rows; columns are matched by name."""
        if len(rows):
            pyarrow.csv.write_csv(rows.select(self._columns), self._file, _CSV)

    def copy(self, connection: Connection) -> None:
        """Insert the rows within the caller's transaction.

        Raises:
            UnavailableError: the connection was lost; nothing was inserted.
        """
        self._file.seek(0)
        statement = f"copy {self._table} ({', '.join(self._columns)}) from stdin (format csv)"
        copy_in(connection, statement, self._file)


@contextmanager
def row_buffer(table: str, columns: Sequence[str]) -> Iterator[RowBuffer]:
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
        yield RowBuffer(file, table, columns)
