"""The prediction service: what answers, its bounds, its log, and who may ask."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, SecretStr, StringConstraints, field_validator

Origin = Annotated[str, StringConstraints(pattern=r"^https?://[^/?#\s*]+$")]


class ServingSettings(BaseModel):
    """The prediction service: what answers, its bounds, its log, and who may ask."""

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

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @property
    def key_headers(self) -> dict[str, str]:
        """What a request to the service carries: our key, where there is one."""
        return {"X-API-Key": self.api_key.get_secret_value()} if self.api_key else {}
