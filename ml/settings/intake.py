"""How drops are ingested, whose labels count, and how samples are stored and split."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, SecretStr, field_validator


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
    label_noise: float = Field(
        0.2, ge=0, le=1, description="Share of wrong labels, as estimated, up to which a drop is accepted by itself."
    )
    label_suspects: Literal["review", "quarantine"] = Field(
        "review",
        description="Images of an accepted drop whose label is probably wrong: used and asked about, or put aside.",
    )
    label_policy: Literal["majority", "latest", "trusted"] = Field(
        "majority", description="Whose label counts when several people labelled a sample; see docs/drops.md."
    )
    trusted_annotators: tuple[str, ...] = Field((), description="The most trusted first; separated by commas.")
    trusted_drops: tuple[str, ...] = Field(
        ("*",),
        description="Names of drops whose labels may enter and change validation and holdout: shell patterns, "
        "separated by commas. All others count for training only; see docs/drops.md.",
    )
    relabel_share: float = Field(
        0.02, gt=0, le=1, description="A drop that changes the labels of more of the stored samples waits for a person."
    )
    relabel_class_share: float = Field(
        0.5, gt=0, le=1, description="Likewise one that takes so much of a class, or more, away from it."
    )
    relabel_days: int = Field(
        30, ge=1, description="Changes that nobody has seen count together over so many days, whichever drop made them."
    )
    expectations: Path = Field(Path("expectations"), description="Folder of the suites.")

    segment_bytes: int = Field(128_000_000, ge=1, description="A segment is closed at this size.")
    holdout_share: float = Field(0.2, gt=0, lt=1)
    validation_share: float = Field(0.1, gt=0, lt=1)
    holdout_growth: float = Field(
        0.5,
        gt=0,
        description="A drop adds at most so many groups to the holdout, as a share of what it holds, and of a class "
        "likewise; the others train. The first drop is free.",
    )
    holdout_growth_least: int = Field(200, ge=0, description="So many new groups of the holdout are always allowed,")
    holdout_class_least: int = Field(20, ge=0, description="and so many of a class.")
    split_salt: SecretStr | None = Field(
        None,
        description="Only to split as another installation did: instead of the secret that each makes for itself and "
        "keeps in Postgres. Whoever knows it can choose what lands in the holdout. Groups that are stored stay where "
        "they are.",
    )

    @field_validator("trusted_annotators", "trusted_drops", mode="before")
    @classmethod
    def _split_list(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
