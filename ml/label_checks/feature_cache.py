"""Features of images by SHA-256, in one file of this host: stored samples are described once, not for each drop.

Losing the file costs time only. It holds at most `MOST` images, the newest. Its name has the newest erasure, so that no
host keeps features of erased images beyond its next check.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select

from ml.catalog.engine import transaction
from ml.catalog.tables import erasures
from ml.context import Context

Floats = NDArray[np.float32]

MOST: Final = 200_000
_PAGE: Final = 500
_PREFIX: Final = "features-"
_WAIT: Final = 30.0
_TABLE: Final = "features_1"  # another number when features change


def of_host(ctx: Context) -> "FeatureCache":
    """The file of this host since the newest erasure; earlier ones are deleted."""
    with transaction(ctx.engine) as connection:
        erasure = connection.execute(select(func.max(erasures.c.id))).scalar() or 0
    path = _folder(ctx) / f"{_PREFIX}{erasure}.sqlite"
    delete(ctx, keep=path.name)
    return FeatureCache(path)


def delete(ctx: Context, keep: str = "") -> tuple[int, int]:
    """Delete the files of this host but the one named `keep`; return how many, and their bytes."""
    count, size = 0, 0
    for path in _folder(ctx).glob(f"{_PREFIX}*"):
        if keep and path.name.startswith(keep):
            continue
        with suppress(FileNotFoundError):  # another process of this host deletes it too
            size += path.stat().st_size
            path.unlink()
            count += 1
    return count, size


def _folder(ctx: Context) -> Path:
    return ctx.settings.home / "label-checks"


class FeatureCache:
    """The file; a damaged one is made anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def read(self, hashes: Sequence[str]) -> dict[str, Floats]:
        """Features ``float32[D]`` of those images that are known."""
        features_by_hash: dict[str, Floats] = {}
        with self._open() as connection:
            for start in range(0, len(hashes), _PAGE):
                page = hashes[start : start + _PAGE]
                marks = ",".join("?" * len(page))
                rows = connection.execute(
                    f"select sha256, features from {_TABLE} where sha256 in ({marks})",  # noqa: S608 - marks only
                    page,
                )
                features_by_hash |= {
                    digest: np.frombuffer(data, np.float16).astype(np.float32) for digest, data in rows
                }
        return features_by_hash

    def write(self, features: Mapping[str, Floats]) -> None:
        """Add images; the oldest beyond `MOST` are dropped."""
        rows = [(digest, values.astype(np.float16).tobytes()) for digest, values in features.items()]
        with self._open() as connection, connection:
            connection.executemany(f"insert or replace into {_TABLE} values (?, ?)", rows)  # noqa: S608 - a constant
            connection.execute(
                f"delete from {_TABLE} where rowid <= (select max(rowid) from {_TABLE}) - {MOST}"  # noqa: S608
            )

    def described(self, hashes: Sequence[str], describe: Callable[[list[int]], Floats]) -> Floats:
        """Features ``float32[N, D]`` of images, by `describe` where they are not known yet.

        Args:
            describe: takes positions in `hashes` and returns the features of these.
        """
        known = self.read(hashes)
        missing = [i for i, digest in enumerate(hashes) if digest not in known]
        if missing:
            # Rounded as they are stored, so that a result does not depend on what is cached.
            rounded = describe(missing).astype(np.float16).astype(np.float32)
            new = {hashes[i]: values for i, values in zip(missing, rounded, strict=True)}
            self.write(new)
            known |= new
        return np.stack([known[digest] for digest in hashes])

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = self._connect()
        except sqlite3.DatabaseError:
            self._path.unlink(missing_ok=True)
            connection = self._connect()
        with closing(connection):
            yield connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_WAIT)
        try:
            connection.execute("pragma synchronous = off")
            connection.execute(f"create table if not exists {_TABLE} (sha256 text primary key, features blob)")
        except sqlite3.DatabaseError:
            connection.close()
            raise
        return connection
