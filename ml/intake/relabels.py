"""What a drop would do to labels of stored samples, as validation and a dry run show it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ml.context import Context
from ml.intake.findings import Finding
from ml.intake.row_verdicts import RowVerdicts


@dataclass(frozen=True)
class RelabelReport:
    """Figures of the drop and what holds it.

    Attributes:
        figures: `relabelled` samples, `relabelled_share` of those stored, `relabelled_class_share`, `proposed` labels
            that only open label tasks, and `relabels` in words; all None where nothing could be counted.
        findings: the reasons to hold the drop.
    """

    figures: Mapping[str, Any] = field(
        default_factory=lambda: dict.fromkeys(
            ("relabelled", "relabelled_share", "relabelled_class_share", "proposed", "relabels")
        )
    )
    findings: tuple[Finding, ...] = ()


CountRelabels = Callable[[Context, str, str, RowVerdicts], RelabelReport]
"""Given drop id, prefix and row verdicts; `ml.datasets.relabels.preview` in production."""


def not_counted(ctx: Context, drop_id: str, prefix: str, rows: RowVerdicts) -> RelabelReport:
    """A `CountRelabels` for where the catalog does not answer; acceptance counts in any case."""
    del ctx, drop_id, prefix, rows
    return RelabelReport()
