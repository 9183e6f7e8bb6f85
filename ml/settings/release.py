"""How a promoted model goes live, and how a trial is judged."""

from typing import Literal

from pydantic import BaseModel, Field

Strategy = Literal["direct", "shadow", "canary"]


class ReleaseSettings(BaseModel):
    """How a promoted model goes live, and how a trial is judged."""

    release_strategy: Strategy = Field("direct", description="Of the gate's decisions; see docs/serving.md.")
    trial_share: float = Field(0.1, gt=0, le=1, description="Of live traffic that a canary or shadow gets.")
    trial_answers: int = Field(1000, ge=100, description="By the candidate, after which a trial ends.")
    trial_minutes: float = Field(120.0, gt=0, le=1200, description="A trial ends then at the latest.")
    trial_alpha: float = Field(0.05, gt=0, lt=1, description="Chance that a harmless candidate is turned down.")
    trial_slowdown: float = Field(1.5, ge=1, description="Times the live model's median latency that is tolerated.")
    trial_confidence: float = Field(0.1, ge=0, lt=1, description="Drop of the mean confidence that is tolerated.")
    trial_disagreement: float = Field(0.25, gt=0, le=1, description="Share of other labels tolerated of a shadow.")
    release_timeout: float = Field(
        120.0, gt=0, description="Seconds for all live replicas to acknowledge; one that refuses or dies ends the wait."
    )
    heartbeat_seconds: float = Field(2.0, gt=0)
    probe_tolerance: float = Field(1e-3, gt=0, description="Largest change of a probe's probability.")
