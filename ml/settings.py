"""Every setting, read once from the environment, typed, with secrets redacted.

A variable is the field's name in capitals behind ``EVERGREEN_``. ``Settings.load`` also reads the
file that the local stack writes (``$EVERGREEN_HOME/evergreen.env``), so a shell needs no exports, and
the one that ``evergreen tune`` writes (``recipe.env`` beside it); real environment variables win over both.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from dotenv import dotenv_values
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_validator,
)

from ml.errors import InvalidInputError

PREFIX = "EVERGREEN_"
ENV_FILE = "evergreen.env"
RECIPE_FILE = "recipe.env"
PORT_PREFIX = "EVERGREEN_PORT_"  # the local stack's own; nothing here reads them


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


Origin = Annotated[str, StringConstraints(pattern=r"^https?://[^/?#\s*]+$")]
Strategy = Literal["direct", "shadow", "canary"]


class Settings(BaseModel):
    """One value for each thing that can be set; defaults suit one machine."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    home: Path = Field(Path(".evergreen"), description="Data folder of this host.")

    # Addresses and credentials
    database_url: SecretStr = Field(SecretStr("postgresql+psycopg2://evergreen@127.0.0.1:5432/evergreen"))
    s3_endpoint: str = Field(
        "http://127.0.0.1:9000", pattern=r"^https?://[^/?#\s]+$", description="S3 API: scheme, host, port."
    )
    s3_access_key: str = "evergreen"
    s3_secret_key: SecretStr = SecretStr("")
    s3_region: str = "us-east-1"
    labels_bucket: str = Field("labels", description="Where people upload drops.")
    store_bucket: str = Field("evergreen", description="Segments, manifests, reports, quarantine.")
    artifacts_bucket: str = Field("mlflow", description="MLflow's artifacts.")
    artifacts_prefix: str = Field("artifacts", description="MLflow's --artifacts-destination in it.")
    mlflow_url: str = "http://127.0.0.1:5000"
    mlflow_page: str | None = Field(None, description="Where browsers find MLflow; None: at mlflow_url.")
    airflow_url: str = "http://127.0.0.1:8080"
    service_url: str = "http://127.0.0.1:8000"

    # Intake
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

    # Datasets
    segment_bytes: int = Field(128_000_000, ge=1, description="A segment is closed at this size.")
    holdout_share: float = Field(0.2, gt=0, lt=1)
    validation_share: float = Field(0.1, gt=0, lt=1)
    split_salt: str = Field("evergreen-1", description="Changing it re-draws every split: never do.")

    # Training
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
    seed: int = 17
    train_schedule: str | None = Field(None, description="Cron, beside the new-dataset asset.")

    # Gate
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
    gate_min_holdout: int = Field(30, ge=1, description="Fewer holdout samples: no decision to promote.")
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
    gate_review: Literal["never", "borderline", "always"] = Field("never", description="When a person is asked.")
    gate_review_hours: float = Field(24.0, gt=0, description="No answer for so long is a rejection.")
    gate_improvement: float = Field(
        0.02, gt=0, lt=1, description="Improvement that the holdout should be able to show; else labels are asked for."
    )

    # Release
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

    # Service
    service_host: str = "127.0.0.1"
    service_port: int = 8000
    service_variant: Literal["auto", "fp32", "bf16", "int8"] = Field(
        "auto", description="Which of a bundle's models answers; auto: the fastest that is right on this host."
    )
    service_runtime: Literal["auto", "onnxruntime", "openvino"] = Field(
        "auto", description="What computes it; auto: ONNX Runtime for fp32, OpenVINO for what is reduced."
    )
    max_wait_seconds: float = Field(
        0.5, gt=0, description="Who would wait longer for an answer is told 503 at once; p99 follows it."
    )
    max_batch_images: int = Field(256, ge=1, description="In one request to /v1/predict/batch.")
    service_workers: int | None = Field(None, ge=1, description="None: one a core.")
    reject_below: float = Field(0.0, ge=0, le=1, description="Answers less confident than this are marked rejected.")
    reject_beyond: float | None = Field(
        None, gt=0, description="So are images further from the training set; 1: of one in a hundred like it."
    )
    max_body_bytes: int = Field(20_000_000, ge=1)
    log_format: Literal["text", "json"] = Field("text", description="Of the service's log.")
    access_log: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of answers that the log has a line of; with any, of every refusal and error.",
    )
    traces_url: str | None = Field(
        None,
        pattern=r"^https?://[^?#\s]+$",
        description="OTLP/HTTP receiver of OpenTelemetry traces, http://HOST:4318.",
    )
    traces_share: float = Field(0.01, ge=0, le=1, description="Of requests that come without a traceparent.")
    spool_bytes: int = Field(1_000_000_000, ge=100_000, description="Prediction log waiting on local disk.")
    log_images: Literal["all", "sample", "uncertain", "off"] = Field(
        "all", description="Which images of logged predictions are kept; see docs/serving.md."
    )
    log_images_rate: float = Field(0.1, ge=0, le=1, description="Of log_images=sample: the share that is kept.")
    log_images_below: float = Field(
        0.8, ge=0, le=1, description="Of log_images=uncertain: kept below this confidence, or rejected."
    )
    body_seconds: float = Field(30.0, gt=0, description="A request's body must be there after so long.")
    answer_seconds: float = Field(30.0, gt=0, description="Its answer must begin so long after that.")
    api_keys: Literal["required", "loopback"] = Field(
        "required", description="Who must show a key: everybody, or everybody but programs on this machine."
    )
    api_key: SecretStr | None = Field(None, description="What `evergreen` and a release's check show the service.")
    cors_origins: tuple[Origin, ...] = Field(
        (), description="Sites whose pages may ask, with a key: https://HOST, separated by commas."
    )

    # Monitoring
    monitor_schedule: str = "*/15 * * * *"
    monitor_window_hours: float = Field(24.0, gt=0)
    monitor_min_predictions: int = Field(200, ge=1)
    drift_threshold: float = Field(0.25, gt=0, description="Population stability index that asks for retraining.")
    feedback_min_labels: int = Field(20, ge=1, description="Feedback labels gathered into one drop.")
    retention_days: int = Field(90, ge=1, description="Of rows of the prediction log.")
    image_retention_days: int = Field(30, ge=1, description="Of its images.")

    # Alerts
    alert_webhook: SecretStr | None = Field(None, description="URL that gets a JSON body for each alert.")

    @field_validator("gate_costs", mode="before")
    @classmethod
    def _json(cls, value: object) -> object:
        return json.loads(value) if isinstance(value, str) else value

    @field_validator("trusted_annotators", "layer_rates", "cors_origins", mode="before")
    @classmethod
    def _separated(cls, value: object) -> object:
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value

    @property
    def key_headers(self) -> dict[str, str]:
        """What a request to the service carries: our key, where there is one."""
        return {"X-API-Key": self.api_key.get_secret_value()} if self.api_key else {}

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Self:
        """Settings from ``environ`` over the local stack's file and a tuned recipe, if there are any.

        Raises:
            InvalidInputError: a variable is unknown or its value does not fit; all are named.
        """
        home = Path(environ.get(PREFIX + "HOME", cls.model_fields["home"].default))
        files = dotenv_values(home / RECIPE_FILE) | dotenv_values(home / ENV_FILE)
        merged = {k: v for k, v in files.items() if v is not None} | dict(environ)
        ours = {k: v for k, v in merged.items() if k.startswith(PREFIX) and not k.startswith(PORT_PREFIX)}
        values = {k.removeprefix(PREFIX).lower(): v for k, v in ours.items() if v}
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = [
                f"`{PREFIX}{'.'.join(map(str, e['loc'])).upper()}`: {e['msg']} (received {e['input']!r})"
                for e in error.errors()
            ]
            raise InvalidInputError("settings do not fit:\n  " + "\n  ".join(lines)) from None
