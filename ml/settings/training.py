"""What is trained, from what, and how long."""

from typing import Final, Literal

from pydantic import BaseModel, Field, NonNegativeFloat, field_validator

Architecture = Literal[
    "small_cnn",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "resnet18",
    "resnet50",
    "efficientnet_b0",
    "convnext_tiny",
    "vgg16",
    "vit_b_16",
]
MAX_SEED: Final = 2**32 - 1
"""NumPy's generators of random numbers take no larger one."""


class TrainingSettings(BaseModel):
    """What is trained, from what, and how long."""

    model_name: str = Field("classifier", description="Name in the MLflow registry.")
    experiment: str = "evergreen"
    architecture: Architecture = Field("small_cnn", description="Or a backbone of torchvision; see docs/training.md.")
    weights: str = Field(
        "none", description="What a full training starts from: none, torchvision, a file, s3://BUCKET/KEY."
    )
    layer_rates: tuple[NonNegativeFloat, ...] = Field(
        (), description="Factors of the learning rate from the input to the head, 0 is frozen; separated by commas."
    )
    reduced: bool | None = Field(None, description="Make INT8 and bf16 variants too; None: of backbones.")
    reduced_max_loss: float = Field(
        0.003, ge=0, lt=1, description="Share of validation that a variant may answer worse on, at most."
    )
    image_size: int | None = Field(None, ge=8, le=1024, description="Side in pixels; None: from the data.")
    epochs: int = Field(30, ge=1, description="At most; see train_budget.")
    patience: int = Field(5, ge=1, description="Epochs without a better validation loss before stopping.")
    batch_size: int = Field(64, ge=1, description="At most; fewer for few samples.")
    learning_rate: float = Field(2e-3, gt=0)
    replay_ratio: float = Field(2.0, ge=0, description="Replayed old samples for each new one.")
    train_budget: int = Field(
        300_000, ge=1, description="Images seen by one training, counted at 32 px; bounds the epochs."
    )
    refresh_budget: int = Field(75_000, ge=1, description="Like train_budget, of a refresh.")
    refresh_rate: float = Field(1.0, gt=0, description="A refresh's learning rate, as a share of learning_rate.")
    replay_policy: Literal["stratified", "herding", "hardest"] = Field(
        "stratified", description="Which old samples are replayed; see docs/training.md."
    )
    full_every: int = Field(20, ge=0, description="A full training after so many refreshes in a row; 0: never so.")
    full_growth: float = Field(
        0.0, ge=0, description="A full training at so many times the samples of the last one; 0: never so."
    )
    train_threads: int | None = Field(None, ge=1, description="None: half the cores, at most 4.")
    review_samples: int = Field(10_000, ge=1, description="The newest samples whose labels are reviewed.")
    review_budget: int = Field(150_000, ge=1, description="Like train_budget, of each of a review's three trainings.")
    review_most: int = Field(200, ge=0, description="Label tasks opened by one review.")
    flips: bool | None = Field(None, description="Train on mirrored images too; None: if they have colour.")
    augmentation: Literal["none", "light", "trivial"] = Field("light", description="See docs/training.md, Recipe.")
    mix: Literal["none", "mixup", "cutmix"] = "none"
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    prior: float = Field(
        0.25, ge=0, le=1, description="How far answers follow the classes' shares: 1 wholly, 0 as if all were even."
    )
    balance: Literal["none", "weights", "sampler", "focal"] = Field("none", description="What helps rare classes.")
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = Field(1e-2, ge=0)
    warm_up: float = Field(0.05, ge=0, lt=1, description="Share of the steps in which the learning rate rises.")
    ema: float = Field(0.0, ge=0, lt=1, description="Decay of the average of the weights that is kept; 0: none.")
    clip: float = Field(1.0, ge=0, description="Most norm of the gradient; 0: unbounded.")
    distillation: float = Field(0.0, ge=0, description="Weight of the champion's answers in a refresh; 0: none.")
    compile: bool = Field(default=False, description="torch.compile: pays on long trainings of large networks only.")
    checkpoint_seconds: float = Field(15.0, ge=0, description="A killed training loses at most so much work.")
    seed: int = Field(17, ge=0, le=MAX_SEED)
    train_schedule: str | None = Field(None, description="Cron, beside the new-dataset asset.")

    @field_validator("layer_rates", mode="before")
    @classmethod
    def _split_rates(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
