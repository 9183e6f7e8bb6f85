"""What the suites say of an inspected drop: each row, and the drop as a whole against history. Writes nothing."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from ml.catalog.classes import renamed
from ml.context import Context
from ml.errors import NotFoundError
from ml.imaging.images import Limits
from ml.intake import entries, history, inspect, label_agreement, row_verdicts, staging_tars
from ml.intake.history import History
from ml.intake.row_verdicts import RowVerdict, RowVerdicts
from ml.models.model import Model
from ml.validation import suites
from ml.validation.suites import KEY, SuiteResult

if TYPE_CHECKING:
    import pandas as pd

Champion = Callable[[Context], Model | None]

_NESTED: Final = "others"  # what more annotators said: no expectation is about it


@dataclass(frozen=True)
class Judgement:
    """What the suites say of a drop's rows (`by_row`) and of its `figures` (`whole`)."""

    fates: RowVerdicts
    figures: dict[str, Any]
    by_row: SuiteResult
    whole: SuiteResult

    @property
    def against(self) -> list[str]:
        """Why the drop must be rejected; empty if it need not be."""
        return [*self.whole.words, *self.by_row.overall]

    @property
    def warnings(self) -> list[str]:
        return [*self.whole.warnings, *self.by_row.warnings]


def judge(ctx: Context, drop_id: str, past: History, champion: Champion) -> Judgement:
    """Judge an inspected drop.

    Args:
        champion: gives the model that the labels are compared with, if there is one.

    Raises:
        NotFoundError: a chunk was not inspected.
        InvalidInputError: a suite in the expectations folder cannot be used.
    """
    table = _table(ctx, drop_id, past)
    suite = ctx.settings.expectations / "images.yml"
    by_row = suites.judge(suite, _frame(ctx, table, past, suites.columns(suite)))
    fates = _sorted(table, by_row)
    figures = {"format": entries.head(ctx, drop_id).format, **_figures(ctx, drop_id, fates, past, champion)}
    whole = suites.judge(ctx.settings.expectations / "drop.yml", suites.one_row(figures))
    return Judgement(fates, figures, by_row, whole)


def _table(ctx: Context, drop_id: str, past: History) -> pa.Table:
    """The inspected rows under today's class names."""
    try:
        table = inspect.read_rows(ctx, drop_id)
    except NotFoundError as error:
        raise NotFoundError(f"drop {drop_id} is not wholly inspected: {error}") from error
    if past.class_map:
        labels = pa.array([renamed(name, past.class_map) for name in table["label"].to_pylist()], pa.string())
        table = table.set_column(table.column_names.index("label"), "label", labels)
    return table


def _frame(ctx: Context, table: pa.Table, past: History, wanted: Set[str] | None) -> "pd.DataFrame":
    """What `images.yml` judges; all-empty columns as objects: GX can match no pattern against all-NaN floats.

    Args:
        wanted: columns that the suite is about, so that memory holds no others; None: all.
    """
    keys, labels, hashes = (table[name].to_pylist() for name in (KEY, "label", "sha256"))
    conflict = row_verdicts.conflicts(keys, labels, hashes)
    chosen = [n for n in table.column_names if n != _NESTED and (wanted is None or n in wanted | {KEY})]
    frame = table.select(chosen).to_pandas()
    frame["aspect"] = pc.divide(table["width"].cast(pa.float64()), table["height"].cast(pa.float64())).to_pandas()
    frame["conflict"] = conflict
    frame["class_problem"] = _class_problems(ctx, labels, past)
    empty = [name for name in frame.columns if frame[name].isna().all()]
    made: pd.DataFrame = frame.astype(dict.fromkeys(empty, object))
    made[empty] = None
    return made


def _class_problems(ctx: Context, labels: Sequence[str | None], past: History) -> list[str | None]:
    policy = ctx.settings.new_classes
    if policy == "accept" or not past.classes or past.released:
        return [None] * len(labels)
    words = {"hold": "waits for approval", "reject": "is not allowed"}[policy]
    new = {
        label: f"class {label} is new and {words} (setting `new_classes`)"
        for label in set(labels)
        if label and label not in past.classes
    }
    return [new.get(label) if label else None for label in labels]


def _sorted(table: pa.Table, verdict: SuiteResult) -> RowVerdicts:
    fate: list[RowVerdict] = []
    reasons: dict[int, list[str]] = {}
    first: dict[str, int] = {}
    twins: dict[int, list[int]] = {}
    columns = [table[name].to_pylist() for name in (KEY, "sha256", "label", "problem")]
    unread, stored = table["fingerprint"].is_null().to_pylist(), table["known"].is_valid().to_pylist()
    for i, (key, digest, label, problem) in enumerate(zip(*columns, strict=True)):
        if against := verdict.reasons.get(key) or _unusable(label, problem, unread=unread[i]):
            reasons[i] = against
            fate.append("bad")
        elif stored[i]:
            fate.append("duplicate")
        elif digest in first:
            twins.setdefault(first[digest], []).append(i)
            fate.append("duplicate")
        else:
            first[digest] = i
            fate.append("good")
    return RowVerdicts(_together(table, twins), fate, reasons)


def _together(table: pa.Table, twins: Mapping[int, Sequence[int]]) -> pa.Table:
    """What is said of further copies of an image is said of the first; marks them as twins.

    Args:
        twins: place of the first copy to the places of the others.
    """
    further = {i for copies in twins.values() for i in copies}
    table = table.append_column("twin", pa.array([i in further for i in range(len(table))], pa.bool_()))
    if not twins:
        return table
    said = table.select([name for name, _ in entries.ANNOTATION]).to_pylist()
    others = table[_NESTED].to_pylist()
    for i, copies in twins.items():
        others[i] = [*(others[i] or ()), *(told for c in copies for told in (said[c], *(others[c] or ())))]
    at = table.column_names.index(_NESTED)
    return table.set_column(at, _NESTED, pa.array(others, table.schema.field(_NESTED).type))


def _unusable(label: str | None, problem: str | None, *, unread: bool) -> list[str]:
    """What no suite can allow, however it is edited."""
    if unread:
        return [problem or "it could not be decoded"]
    return [] if label else ["it has no label"]


def _figures(ctx: Context, drop_id: str, fates: RowVerdicts, past: History, champion: Champion) -> dict[str, Any]:
    """The one row that `drop.yml` judges."""
    good, duplicates = fates.count("good"), fates.count("duplicate")
    table = fates.table.filter(pa.array([f == "good" for f in fates.fate], pa.bool_()))
    counts = Counter(table["label"].to_pylist())
    brightness = pc.mean(table["brightness"]).as_py()
    return {
        "images": len(fates),
        "good_share": (good + duplicates) / len(fates) if len(fates) else None,
        "duplicate_share": duplicates / len(fates) if len(fates) else None,
        "classes": len(counts),
        "largest_class_share": max(counts.values()) / good if good else None,
        "brightness": brightness,
        "label_agreement": _agreement(ctx, drop_id, table, champion),
        **history.compare(past, len(fates), counts, brightness),
    }


def _agreement(ctx: Context, drop_id: str, good: pa.Table, champion: Champion) -> float | None:
    if len(good) < label_agreement.ENOUGH or (model := champion(ctx)) is None:
        return None

    def fetch(rows: Sequence[dict[str, Any]]) -> list[bytes]:
        return [
            staging_tars.image(m, r["bytes"]) for m, r in zip(staging_tars.read(ctx, drop_id, rows), rows, strict=True)
        ]

    limits = Limits(ctx.settings.max_image_bytes, ctx.settings.max_image_pixels)
    return label_agreement.label_agreement(
        model, good.select([KEY, "label", "chunk", "packed", "bytes"]).to_pylist(), fetch, limits, drop_id
    )
