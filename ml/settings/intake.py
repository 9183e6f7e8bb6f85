"""How drops are ingested, whose labels count, and how samples are stored and split."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, field_validator


class IntakeSettings(BaseModel):
    """How drops are ingested, whose labels count, and how samples are stored and split."""

    drops_prefix: str = "drops/"
    poll_seconds: float = Field(1.0, gt=0, description="How often the bucket is asked for ready drops.")
    inspect_bytes: int = Field(
        128_000_000, ge=1, description="Images of so many bytes are inspected by one task, none counted below 8 kB."
    )
    max_drop_images: int = Field(
        1_000_000, ge=1, description="A drop of more images, or files, is refused: a task holds about 2 kB of each."
    )
    max_image_bytes: int = Field(20_000_000, ge=1)
    max_image_pixels: int = Field(40_000_000, ge=1)
    new_classes: Literal["accept", "hold", "reject"] = "accept"
    label_policy: Literal["majority", "latest", "trusted"] = Field(
        "majority", description="Whose label counts when several people labelled a sample; see docs/drops.md."
    )
    trusted_annotators: tuple[str, ...] = Field((), description="The most trusted first; separated by commas.")
    expectations: Path = Field(Path("expectations"), description="Folder of the suites.")

    segment_bytes: int = Field(128_000_000, ge=1, description="A segment is closed at this size.")
    holdout_share: float = Field(0.2, gt=0, lt=1)
    validation_share: float = Field(0.1, gt=0, lt=1)
    split_salt: str = Field("evergreen-1", description="Changing it re-draws every split: never do.")

    @field_validator("trusted_annotators", mode="before")
    @classmethod
    def _split_annotators(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
