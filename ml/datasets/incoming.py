"""The rows of a validated drop, checked against the current catalog: new ones, stored ones, ones to quarantine.

Other drops may have been accepted since validation read the catalog.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from ml.catalog import erasures, existing_samples
from ml.catalog.classes import class_map, renamed
from ml.catalog.engine import transaction
from ml.context import Context
from ml.datasets import holdout_growth, labels, near_duplicates, splits, versions
from ml.datasets.near_copies import Candidate, CopySearch
from ml.datasets.near_duplicates import SplitAssigner
from ml.datasets.trust import Trust
from ml.imaging.copy_signature import has_detail
from ml.intake import quarantine, thumbnails
from ml.intake.row_verdicts import StoredRowVerdicts

_NOT_MADE: Final[dict[str, None]] = {"thumbnail": None, "copy_signature": None}  # `maintain` makes them


def with_current_labels(row: dict[str, Any], classes: Mapping[str, str]) -> dict[str, Any]:
    """The row with the current names of its classes, also in further annotations."""
    row["label"] = renamed(row["label"], classes)
    if row["others"]:
        row["others"] = [other | {"label": renamed(other["label"], classes)} for other in row["others"]]
    return row


class IncomingDrop:
    """The rows of a drop. Memory holds one page of them, and all those that are quarantined here.

    Attributes:
        repeated: good rows whose image another drop has added since validation; complete after `new_pages`.
        quarantined: rows rejected here, with `reasons`; complete after `new_pages`.
        splitter: what it chose, complete after `new_pages`.
    """

    def __init__(self, ctx: Context, drop_id: str, verdicts: StoredRowVerdicts, trust: Trust) -> None:
        self._ctx = ctx
        self._drop_id = drop_id
        self._verdicts = verdicts
        self._trust = trust
        self.repeated: list[dict[str, Any]] = []
        self.quarantined: list[dict[str, Any]] = []
        self.splitter = splits.splitter(ctx)
        with transaction(ctx.engine) as connection:
            self._classes = class_map(connection)

    def new_pages(self) -> Iterator[list[dict[str, Any]]]:
        """Pages of rows that become samples, with `group_id`, `split` and the `neighbours` that determined them."""
        columns = self._verdicts.columns("good", ("phash_high", "phash_low", "width", "height", "chunk", "packed"))
        high, low, width, height, chunks, packed = (columns[name].to_numpy() for name in columns.column_names)
        pixels, known = thumbnails.read(self._ctx, self._drop_id, chunks, packed)
        sides = np.minimum(width, height).astype(np.int64)
        search = CopySearch(self._ctx.engine, pixels, sides, stored=self._stored())
        assigner = SplitAssigner(high, low, self.splitter, blank=known & ~has_detail(pixels))
        wanted = holdout_growth.candidates(self.splitter, self._labels_and_fingerprints())
        with transaction(self._ctx.engine) as connection:
            self.splitter.quota = holdout_growth.quota(connection, wanted, self._ctx.settings)
            lookup_needed = near_duplicates.needs_lookup(connection, high, low)
        start = 0
        for page in self._verdicts.pages("good"):
            rows = {start + i: self._with_current_label(row) for i, row in enumerate(page)}
            start += len(page)
            rows = self._remove_stored(rows)
            numbers = [number for number in rows if lookup_needed[number]]
            stored_neighbours = near_duplicates.find_stored(self._ctx.engine, [rows[n] for n in numbers])
            neighbours = {numbers[i]: of_row for i, of_row in stored_neighbours.items()}
            for number, row in rows.items():
                row |= search.columns(number) if known[number] else _NOT_MADE
            yield list(self._assign(rows, assigner, neighbours, search.find(list(rows))))

    def _stored(self) -> int:
        newest = versions.latest(self._ctx)
        return newest.train + newest.validation + newest.holdout if newest else 0

    def _labels_and_fingerprints(self) -> Iterator[tuple[str, str]]:
        for page in self._verdicts.column_pages("good", ("label", "fingerprint")):
            for label, fingerprint in zip(*(page[name].to_pylist() for name in page.column_names), strict=True):
                yield self._classes.get(label, label), fingerprint

    def duplicate_pages(self) -> Iterator[list[dict[str, Any]]]:
        """Pages of rows whose image was stored already at validation; `repeated` has the others that are."""
        for page in self._verdicts.pages("duplicate"):
            yield [self._with_current_label(row) for row in page if not row["twin"]]

    def bad_pages(self) -> Iterator[list[dict[str, Any]]]:
        """Pages of rows for the quarantine; call after `new_pages`."""
        yield from self._verdicts.pages("bad")
        yield self.quarantined

    @property
    def duplicates(self) -> int:
        return self._verdicts.count("duplicate") + len(self.repeated)

    def _with_current_label(self, row: dict[str, Any]) -> dict[str, Any]:
        return with_current_labels(row, self._classes)

    def _remove_stored(self, rows: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
        hashes = [row["sha256"] for row in rows.values()]
        stored = existing_samples.labels(self._ctx.engine, hashes)
        with transaction(self._ctx.engine) as connection:
            erased_hashes = erasures.erased(connection, [digest for digest in hashes if digest not in stored])
        self.repeated += [row for row in rows.values() if row["sha256"] in stored]
        self._quarantine((row for row in rows.values() if row["sha256"] in erased_hashes), quarantine.ERASED)
        return {n: row for n, row in rows.items() if row["sha256"] not in stored and row["sha256"] not in erased_hashes}

    def _assign(
        self,
        rows: dict[int, dict[str, Any]],
        assigner: SplitAssigner,
        stored: dict[int, list[near_duplicates.Neighbour]],
        copies: dict[int, list[Candidate]],
    ) -> Iterator[dict[str, Any]]:
        for number, row in rows.items():
            trusted = self._trust.whole or self._trust.may_evaluate(
                labels.from_row(row, "", self._trust.source), row["label"]
            )
            near, transformed = stored.get(number, ()), copies.get(number, ())
            assignment = assigner.assign(number, row, near, transformed, trusted=trusted)
            if isinstance(assignment, str):
                self._quarantine((row,), assignment)
            else:
                row |= {"group_id": assignment.group_id, "split": assignment.split, "neighbours": assignment.neighbours}
                row["copy_links"] = assignment.links
                yield row

    def _quarantine(self, rows: Any, reason: str) -> None:
        self.quarantined += [row | {"reasons": [reason]} for row in rows]
