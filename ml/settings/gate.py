"""When a challenger is promoted, and when a person is asked."""

import json
from typing import Literal

from pydantic import BaseModel, Field, field_validator


class GateSettings(BaseModel):
    """When a challenger is promoted, and when a person is asked."""

    gate_rule: Literal["better", "proven"] = Field(
        "better", description="What a challenger must be; see docs/gate.md: ahead and not worse, or surely better."
    )
    gate_margin: float = Field(
        0.01, gt=0, lt=1, description="Loss of the metric against the best champion so far that is tolerated."
    )
    gate_risk: float = Field(
        0.05, gt=0, lt=0.5, description="Chance that a challenger worse by more than gate_margin passes that test."
    )
    gate_alpha: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Chance that 100 decisions in a row break a promise, or one of them accuses a harmless group.",
    )
    gate_min_holdout: int = Field(
        30, ge=1, description="Fewer holdout samples, near copies counted once: no decision to promote."
    )
    gate_metric: str = Field(
        "accuracy",
        pattern=r"^(accuracy|macro_f1|cost|recall:.+)$",
        description="What must get better: accuracy, macro_f1, recall:CLASS or cost.",
    )
    gate_costs: dict[str, dict[str, float]] = Field(
        {}, description="JSON: true class → answered class → cost, for gate_metric cost; 1 for errors not named."
    )
    gate_group_margin: float = Field(
        0.05, ge=0, lt=1, description="Drop tolerated on any class or slice; of small ones more, see docs/gate.md."
    )
    gate_calibration_margin: float = Field(0.05, ge=0, lt=1, description="Tolerated rise of the calibration error.")
    gate_corrupted: int = Field(64, ge=0, description="Holdout images that are also judged corrupted.")
    gate_corruptions: Literal["report", "ask", "veto"] = Field(
        "report", description="What harm on corrupted images does: a warning, a question to a person, a rejection."
    )
    gate_max_milliseconds: float | None = Field(None, gt=0, description="For one image, on one core.")
    gate_max_bytes: int | None = Field(None, ge=1, description="Size of what is served.")
    gate_relabelled: float = Field(
        0.02, ge=0, le=1, description="Share of the holdout whose labels may change without a person being asked."
    )
    gate_review: Literal["never", "borderline", "always"] = Field("never", description="When a person is asked.")
    gate_review_hours: float = Field(24.0, gt=0, description="No answer for so long is a rejection.")
    gate_improvement: float = Field(
        0.02, gt=0, lt=1, description="Improvement that the holdout should be able to show; else labels are asked for."
    )

    @field_validator("gate_costs", mode="before")
    @classmethod
    def _parse_costs(cls, value: object) -> object:
        return json.loads(value) if isinstance(value, str) else value
