"""Validates an inspected drop: each row, and the drop as a whole against history. Writes nothing."""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from ml.catalog.classes import renamed
from ml.context import Context
from ml.errors import NotFoundError
from ml.intake import entries, history, inspect, row_verdicts
from ml.intake.findings import Finding
from ml.intake.history import History
from ml.intake.relabels import CountRelabels
from ml.intake.row_verdicts import RowVerdict, RowVerdicts
from ml.validation import suites
from ml.validation.suites import KEY, SuiteResult

if TYPE_CHECKING:
    import pandas as pd

_RETIRED: Final = {
    "label_agreement": "a figure that no longer exists: labels are checked after validation, see docs/label-checks.md. "
    "Remove the expectation"
}
_NESTED: Final = "others"  # further annotations; no expectation uses them


@dataclass(frozen=True)
class DropVerdict:
    """The suites' results for a drop's rows (`images_result`) and for its `figures` (`drop_result`); its findings."""

    rows: RowVerdicts
    figures: dict[str, Any]
    images_result: SuiteResult
    drop_result: SuiteResult
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    """What is wrong with the suites themselves."""

    @property
    def rejection_reasons(self) -> list[str]:
        """Why the drop must be rejected; empty if it is accepted."""
        return [*self.drop_result.messages, *self.images_result.overall]

    @property
    def warnings(self) -> list[str]:
        return [*self.notes, *self.drop_result.warnings, *self.images_result.warnings]


def evaluate(ctx: Context, drop_id: str, past: History, count_relabels: CountRelabels) -> DropVerdict:
    """Validate an inspected drop.

    Args:
        past: what the drop is compared with.
        count_relabels: counts what it would change of the labels of stored samples.

    Raises:
        NotFoundError: a chunk was not inspected.
        InvalidInputError: a suite in the expectations folder cannot be used.
    """
    table = _read_table(ctx, drop_id, past)
    suite = ctx.settings.expectations / "images.yml"
    images_result = suites.validate(suite, _frame(ctx, table, past, suites.columns(suite)))
    rows = _to_verdicts(table, images_result)
    head = entries.head(ctx, drop_id)
    relabelled = count_relabels(ctx, drop_id, head.prefix, rows)
    figures = {"format": head.format, **_figures(rows, past), **relabelled.figures}
    drop_suite = ctx.settings.expectations / "drop.yml"
    # A retired figure is empty, and passes: an edited suite that still names it must not stop intake.
    frame = suites.single_row_frame(dict.fromkeys(_RETIRED) | figures)
    retired = sorted(_RETIRED.keys() & (suites.columns(drop_suite) or set()))
    notes = tuple(f"{drop_suite} names `{name}`, {_RETIRED[name]}" for name in retired)
    drop_result = suites.validate(drop_suite, frame)
    return DropVerdict(rows, figures, images_result, drop_result, relabelled.findings, notes)


def _read_table(ctx: Context, drop_id: str, past: History) -> pa.Table:
    """The inspected rows, with current class names."""
    try:
        table = inspect.read_rows(ctx, drop_id)
    except NotFoundError as error:
        raise NotFoundError(f"drop {drop_id} is not fully inspected: {error}") from error
    if past.class_map:
        labels = pa.array([renamed(name, past.class_map) for name in table["label"].to_pylist()], pa.string())
        table = table.set_column(table.column_names.index("label"), "label", labels)
    return table


def _frame(ctx: Context, table: pa.Table, past: History, suite_columns: Set[str] | None) -> "pd.DataFrame":
    """The frame that `images.yml` validates; empty columns are objects, since GX cannot match patterns against NaN.

    Args:
        suite_columns: columns that the suite uses, to save memory; None: all.
    """
    keys, labels, hashes = (table[name].to_pylist() for name in (KEY, "label", "sha256"))
    conflict = row_verdicts.conflicts(keys, labels, hashes)
    names = [n for n in table.column_names if n != _NESTED and (suite_columns is None or n in suite_columns | {KEY})]
    frame = table.select(names).to_pandas()
    frame["aspect"] = pc.divide(table["width"].cast(pa.float64()), table["height"].cast(pa.float64())).to_pandas()
    frame["conflict"] = conflict
    frame["class_problem"] = _class_problems(ctx, labels, past)
    empty = [name for name in frame.columns if frame[name].isna().all()]
    result: pd.DataFrame = frame.astype(dict.fromkeys(empty, object))
    result[empty] = None
    return result


def _class_problems(ctx: Context, labels: Sequence[str | None], past: History) -> list[str | None]:
    policy = ctx.settings.new_classes
    if policy == "accept" or not past.classes or past.released:
        return [None] * len(labels)
    consequence = {"hold": "waits for approval", "reject": "is not allowed"}[policy]
    problems = {
        label: f"class {label} is new and {consequence} (setting `new_classes`)"
        for label in set(labels)
        if label and label not in past.classes
    }
    return [problems.get(label) if label else None for label in labels]


def _to_verdicts(table: pa.Table, images_result: SuiteResult) -> RowVerdicts:
    verdicts: list[RowVerdict] = []
    reasons: dict[int, list[str]] = {}
    first: dict[str, int] = {}
    twins: dict[int, list[int]] = {}
    columns = [table[name].to_pylist() for name in (KEY, "sha256", "label", "problem")]
    undecoded, stored = table["fingerprint"].is_null().to_pylist(), table["known"].is_valid().to_pylist()
    for i, (key, digest, label, problem) in enumerate(zip(*columns, strict=True)):
        if row_reasons := images_result.reasons.get(key) or _unusable(label, problem, undecoded=undecoded[i]):
            reasons[i] = row_reasons
            verdicts.append("bad")
        elif stored[i]:
            verdicts.append("duplicate")
        elif digest in first:
            twins.setdefault(first[digest], []).append(i)
            verdicts.append("duplicate")
        else:
            first[digest] = i
            verdicts.append("good")
    return RowVerdicts(_merge_twins(table, twins), verdicts, reasons)


def _merge_twins(table: pa.Table, twins: Mapping[int, Sequence[int]]) -> pa.Table:
    """Mark further copies of an image as twins, and add their annotations to the first copy.

    Args:
        twins: indices of the further copies, by index of the first copy.
    """
    twin_indices = {i for copies in twins.values() for i in copies}
    table = table.append_column("twin", pa.array([i in twin_indices for i in range(len(table))], pa.bool_()))
    if not twins:
        return table
    annotations = table.select([name for name, _ in entries.ANNOTATION]).to_pylist()
    further = table[_NESTED].to_pylist()
    for i, copies in twins.items():
        further[i] = [*(further[i] or ()), *(a for c in copies for a in (annotations[c], *(further[c] or ())))]
    position = table.column_names.index(_NESTED)
    return table.set_column(position, _NESTED, pa.array(further, table.schema.field(_NESTED).type))


def _unusable(label: str | None, problem: str | None, *, undecoded: bool) -> list[str]:
    """Reasons that make a row unusable whatever the suite says."""
    if undecoded:
        return [problem or "it could not be decoded"]
    return [] if label else ["it has no label"]


def _figures(rows: RowVerdicts, past: History) -> dict[str, Any]:
    """The row that `drop.yml` validates."""
    good, duplicates = rows.count("good"), rows.count("duplicate")
    table = rows.table.filter(pa.array([v == "good" for v in rows.verdicts], pa.bool_()))
    counts = Counter(table["label"].to_pylist())
    brightness = pc.mean(table["brightness"]).as_py()
    return {
        "images": len(rows),
        "good_share": (good + duplicates) / len(rows) if len(rows) else None,
        "duplicate_share": duplicates / len(rows) if len(rows) else None,
        "classes": len(counts),
        "largest_class_share": max(counts.values()) / good if good else None,
        "brightness": brightness,
        **history.compare(past, len(rows), counts, brightness),
    }
