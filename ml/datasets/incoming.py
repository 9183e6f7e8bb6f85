"""A validated drop as of now: what is new in it and where it belongs, what is stored already, what must be put aside.

Validation saw the catalog as it was then; other drops may have been accepted since.
"""

from collections.abc import Iterator
from typing import Any

from ml.catalog import existing_samples
from ml.catalog.classes import class_map, renamed
from ml.catalog.engine import transaction
from ml.context import Context
from ml.datasets import erase, near_duplicates
from ml.datasets.near_duplicates import Placer
from ml.intake.row_verdicts import StoredRowVerdicts


class IncomingDrop:
    """The rows of a drop; memory holds a page of them, and those that are put aside.

    Attributes:
        repeated: good rows of which another drop brought the image meanwhile; whole once `new` was read.
        aside: bad rows with `reasons`; likewise.
    """

    def __init__(self, ctx: Context, verdicts: StoredRowVerdicts) -> None:
        self._ctx = ctx
        self._verdicts = verdicts
        self.repeated: list[dict[str, Any]] = []
        self.aside: list[dict[str, Any]] = []
        with transaction(ctx.engine) as connection:
            self._classes = class_map(connection)

    def new(self) -> Iterator[list[dict[str, Any]]]:
        """Pages of rows that become samples, with `group_id`, `split` and the `neighbours` that decided them."""
        looks = self._verdicts.columns("good", ("phash_high", "phash_low"))
        high, low = (looks[name].to_numpy() for name in looks.column_names)
        placer = Placer(high, low, self._ctx.settings)
        with transaction(self._ctx.engine) as connection:
            asked = near_duplicates.sift(connection, high, low)
        start = 0
        for page in self._verdicts.pages("good"):
            rows = {start + i: self._renamed(row) for i, row in enumerate(page)}
            start += len(page)
            rows = self._unknown(rows)
            wanted = [number for number in rows if asked[number]]
            found = near_duplicates.stored(self._ctx.engine, [rows[n] for n in wanted])
            existing_samples = {wanted[i]: neighbours for i, neighbours in found.items()}
            yield list(self._placed(rows, placer, existing_samples))

    def known(self) -> Iterator[list[dict[str, Any]]]:
        """Pages of rows whose image is stored already; after `new`."""
        for page in self._verdicts.pages("duplicate"):
            yield [self._renamed(row) for row in page if not row["twin"]]
        yield self.repeated

    def bad(self) -> Iterator[list[dict[str, Any]]]:
        """Pages of rows for the quarantine; after `new`."""
        yield from self._verdicts.pages("bad")
        yield self.aside

    @property
    def duplicates(self) -> int:
        return self._verdicts.count("duplicate") + len(self.repeated)

    def _renamed(self, row: dict[str, Any]) -> dict[str, Any]:
        row["label"] = renamed(row["label"], self._classes)
        return row

    def _unknown(self, rows: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
        hashes = [row["sha256"] for row in rows.values()]
        stored = existing_samples.labels(self._ctx.engine, hashes)
        with transaction(self._ctx.engine) as connection:
            gone = erase.erased(connection, [digest for digest in hashes if digest not in stored])
        self.repeated += [row for row in rows.values() if row["sha256"] in stored]
        self._put_aside((row for row in rows.values() if row["sha256"] in gone), "this image was erased on request")
        return {n: row for n, row in rows.items() if row["sha256"] not in stored and row["sha256"] not in gone}

    def _placed(
        self, rows: dict[int, dict[str, Any]], placer: Placer, known: dict[int, list[near_duplicates.Neighbour]]
    ) -> Iterator[dict[str, Any]]:
        for number, row in rows.items():
            place = placer.place(number, row, known.get(number, ()))
            if isinstance(place, str):
                self._put_aside((row,), place)
            else:
                row |= {"group_id": place.group_id, "split": place.split, "neighbours": place.neighbours}
                yield row

    def _put_aside(self, rows: Any, words: str) -> None:
        self.aside += [row | {"reasons": [words]} for row in rows]
