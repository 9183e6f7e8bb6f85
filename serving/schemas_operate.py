"""What operators send and see, as OpenAPI tells it."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ml.settings import Strategy


def _said(value: str) -> str:
    stripped = value.strip()
    if not stripped or not stripped.isprintable():
        raise ValueError("must hold printable characters, and not only white space")
    return stripped


Name = Annotated[
    str,
    Field(min_length=1, max_length=100, description="Who says so; is kept.", examples=["ann"]),
    AfterValidator(_said),
]
Why = Annotated[
    str,
    Field(min_length=1, max_length=2000, description="Is kept.", examples=["worse on photos at night"]),
    AfterValidator(_said),
]
Version = Annotated[int, Field(ge=1, le=2**31 - 1, examples=[4])]


class Promote(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Version
    actor: Name
    reason: Why
    strategy: Strategy = Field("direct", description="`canary` and `shadow` try it on a share of traffic first.")


class Rollback(BaseModel):
    model_config = ConfigDict(extra="forbid")

    actor: Name
    reason: Why
    to_version: Version | None = Field(None, description="The version before the live one, if nothing is said.")


class Deployed(BaseModel):
    """What came of a move."""

    model_config = ConfigDict(protected_namespaces=())

    id: int
    model_version: int
    previous_version: int | None
    strategy: Strategy
    status: str = Field(description="live, failed (undone, see `reason`) or trial.", examples=["live"])
    reason: str | None
    replicas: int = Field(description="That run it.")
    seconds: float = Field(description="From the wish to its fate.")
    acknowledged: float | None = Field(description="Seconds to the last replica that runs it.")


class LedgerRow(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    id: int
    model_version: int
    previous_version: int | None
    strategy: Strategy
    share: float = Field(description="Of traffic, while it was tried.")
    status: str = Field(examples=["superseded"])
    reason: str | None = Field(description="What became of it, in words.")
    findings: dict[str, Any] = Field(description="What its trial found.")
    decision_id: str
    actor: str = Field(description="`gate` or `operator:NAME`.", examples=["operator:ann"])
    verdict: str
    decision_reason: str = Field(description="Why it was wished.")
    bundle_digest: str
    created_at: datetime
    trial_at: datetime | None
    served_from: datetime | None
    served_until: datetime | None


class Ledger(BaseModel):
    """The newest first."""

    deployments: list[LedgerRow]
