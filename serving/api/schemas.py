"""Request and response models of the REST API."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from ml.catalog import class_names
from ml.settings import Strategy
from serving.prediction_log.log import is_uuid7

_ID: Final = "0199a3c8-6d1e-7b3a-9c41-5f0d2e8a7b16"


class Candidate(BaseModel):
    label: str = Field(examples=["7"])
    probability: float = Field(ge=0, le=1, examples=[0.9731])


class Answer(BaseModel):
    """The likeliest label and those after it. All of it comes from the one named model version."""

    model_config = ConfigDict(protected_namespaces=())

    id: UUID = Field(description="UUIDv7; give it back with feedback.", examples=[_ID])
    model_version: int = Field(examples=[4])
    label: str = Field(examples=["7"])
    probability: float = Field(ge=0, le=1, examples=[0.9731])
    top: list[Candidate]
    rejected: bool = Field(description="The answer is not to be relied on; limits are set by the operator.")
    reason: Literal["unsure", "unfamiliar"] | None = Field(
        description="Why: the confidence is too low, or the image is unlike those the model was trained on."
    )
    milliseconds: float = Field(description="From the request's arrival to its answer.", examples=[6.2])


_ONE_ID: Final[list[JsonValue]] = [
    {"required": [name], "properties": {name: {"type": "string"}}} for name in ("prediction_id", "client_key")
]
_UUID7: Final = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-7[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}$"


class BatchUrls(BaseModel):
    """Images that lie in our own buckets."""

    model_config = ConfigDict(extra="forbid")

    urls: list[str] = Field(min_length=1, examples=[["s3://labels/new/cat.jpg"]])


class BatchProblem(BaseModel):
    """Why an image has no answer; as a problem of `/v1/predict`."""

    status: int = Field(examples=[422])
    code: str = Field(examples=["not_an_image"])
    detail: str


class BatchItem(BaseModel):
    """An answer or a problem."""

    name: str = Field(description="The file's name or its URL, as sent.", examples=["cat.jpg"])
    answer: Answer | None = None
    problem: BatchProblem | None = None


class BatchAnswer(BaseModel):
    """One item an image, in the order in which they were sent."""

    results: list[BatchItem]


_LABEL: Final = r"^[^/\\]+$"


def _class_name(value: str) -> str:
    """The label as intake stores it, by intake's rules."""
    label = class_names.normalised(value.strip())
    if problem := class_names.problem(label):
        raise ValueError(problem)
    if not label.isprintable():
        raise ValueError("must hold printable characters only")
    return label


class Feedback(BaseModel):
    """What a prediction should have said."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"oneOf": _ONE_ID})

    prediction_id: UUID | None = Field(
        None, description="As /v1/predict returned it.", examples=[_ID], json_schema_extra={"pattern": _UUID7}
    )
    client_key: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        pattern=r"^[\x20-\x7e]+$",
        description="Instead: the `X-Client-Key` sent with the image; its newest prediction is meant.",
    )
    label: Annotated[str, AfterValidator(_class_name)] = Field(
        min_length=1,
        max_length=200,
        pattern=_LABEL,
        description="A class; a name that is none yet is a proposal until a reviewer confirms it.",
        examples=["1"],
    )
    source: str = Field(
        "user",
        min_length=1,
        max_length=100,
        description="The end user for whom the key speaks, by an id of yours. All end users of a key are one vote.",
    )
    comment: str | None = Field(None, max_length=2000, examples=["a one with a bar"])

    @field_validator("prediction_id")
    @classmethod
    def _is_uuid7(cls, value: UUID | None) -> UUID | None:
        if value and not is_uuid7(value):
            raise ValueError(f"`{value}` is no UUIDv7: use the `id` that /v1/predict returned")
        return value

    @field_validator("source")
    @classmethod
    def _stripped(cls, value: str) -> str:
        if not (stripped := value.strip()):
            raise ValueError("must hold more than white space")
        if not stripped.isprintable():
            raise ValueError("must hold printable characters only")
        return stripped

    @field_validator("comment")
    @classmethod
    def _storable(cls, value: str | None) -> str | None:
        return value.replace("\0", "") if value else value

    @model_validator(mode="after")
    def _exactly_one_id(self) -> Self:
        if (self.prediction_id is None) == (self.client_key is None):
            raise ValueError("name the prediction by `prediction_id` or by `client_key`, one of the two")
        return self


class FeedbackStored(BaseModel):
    """201: new; 200: this end user had spoken before, its opinion is now this one; 202: kept, stored later."""

    prediction_id: UUID | None = Field(examples=[_ID])
    client_key: str | None
    label: str = Field(examples=["1"])
    source: str = Field(examples=["user"])
    level: Literal["propose", "annotate", "review"] = Field(description="What the key's feedback counts as.")
    standing: Literal["queued", "vote", "decision", "new_class", "unknown"] = Field(
        description="`queued`: a proposal, which people look at; `vote`: of an annotator; `decision`: of a reviewer; "
        "`new_class`: kept until a reviewer confirms the class; `unknown`: not known before its prediction is."
    )


class Opinion(BaseModel):
    """Feedback as it is stored."""

    label: str = Field(examples=["1"])
    caller: str | None = Field(description="Whose key it came with.", examples=["phone"])
    source: str = Field(description="The end user for whom the key spoke.", examples=["user"])
    level: Literal["propose", "annotate", "review"]
    comment: str | None
    given_at: datetime


class LoggedPrediction(BaseModel):
    """A row of the prediction log."""

    model_config = ConfigDict(protected_namespaces=(), extra="ignore")

    id: UUID = Field(examples=[_ID])
    at: datetime
    model_version: int = Field(examples=[4])
    variant: str | None = Field(description="Which of the bundle's models answered.", examples=["fp32"])
    label: str = Field(examples=["7"])
    probability: float = Field(ge=0, le=1, examples=[0.9731])
    top: list[Candidate]
    rejected: str | None = Field(description="Why the answer is not to be relied on; null if it is.")
    distance: float | None = Field(description="Of the image from those the model was trained on.")
    milliseconds: float
    queue_milliseconds: float | None
    decode_milliseconds: float | None
    inference_milliseconds: float | None
    width: int
    height: int
    brightness: float
    image_sha256: str
    image_kept: bool = Field(description="The image is, or was until its retention ended, in the bucket.")
    caller: str | None
    client_key: str | None
    stored: bool = Field(description="False: on its way, in the spool of the host that answered.")
    feedback: list[Opinion]


class LabelTask(BaseModel):
    """A question about the label of a prediction's image or of a sample."""

    id: int = Field(examples=[17])
    prediction_id: UUID | None = Field(description="Null: it is about a sample of the data.")
    sha256: str | None = Field(description="Of the image.")
    reason: str = Field(examples=["feedback"])
    score: float = Field(ge=0, le=1, description="How doubtful the label is.")
    label: str | None = Field(description="What it is now, or what the model said.", examples=["7"])
    suggested: str | None = Field(description="What it may be instead.", examples=["1"])
    details: dict[str, Any] = Field(description="Who says what, and why it is asked.")
    created_at: datetime


class LabelTasks(BaseModel):
    """The most doubtful first."""

    tasks: list[LabelTask]


class LabelTaskAnswer(BaseModel):
    """What the label is."""

    model_config = ConfigDict(extra="forbid")

    label: Annotated[str, AfterValidator(_class_name)] = Field(
        min_length=1, max_length=200, pattern=_LABEL, description="The name of a class.", examples=["1"]
    )


class LabelTaskClosed(BaseModel):
    """What became of the question."""

    id: int = Field(examples=[17])
    status: Literal["answered", "dismissed"]
    label: str | None = Field(examples=["1"])


class LiveAccuracy(BaseModel):
    """Of one model version."""

    model_config = ConfigDict(protected_namespaces=())

    model_version: int = Field(examples=[4])
    judged: int = Field(description="Answers with feedback.", examples=[120])
    right: int = Field(examples=[113])
    accuracy: float = Field(examples=[0.9417])


_REASON_IF_REJECTED: Final[list[JsonValue]] = [
    {"properties": {"approved": {"const": True}}},
    {"required": ["reason"], "properties": {"reason": {"pattern": r"\S"}}},
]


class DecisionAnswer(BaseModel):
    """A person's yes or no to a decision of the gate."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"anyOf": _REASON_IF_REJECTED})

    approved: bool = Field(examples=[True])
    actor: str = Field(min_length=1, max_length=100, description="Who says so; is kept.", examples=["ann"])
    reason: str = Field("", max_length=2000, description="Why; is kept. A no needs one.", examples=["looked at them"])

    @field_validator("actor", "reason")
    @classmethod
    def _printable(cls, value: str) -> str:
        stripped = value.strip()
        if not stripped.isprintable():
            raise ValueError("must hold printable characters only")
        return stripped


class DecisionAnswered(BaseModel):
    """What is kept."""

    decision_id: str = Field(examples=["9f0c2a64d1b3e875"])
    approved: bool
    actor: str = Field(examples=["ann by REST"])
    reason: str


class VariantStanding(BaseModel):
    """What the worker makes of one of the bundle's variants."""

    variant: Literal["fp32", "bf16", "int8"]
    status: Literal["serving", "available", "refused"] = Field(
        description="`available`: not needed here, it is proven when it is to answer; `refused`: not right here."
    )
    reason: str = Field(description="Why it does not answer; empty for the one that does.")
    speedup: float | None = Field(
        description="Times as fast as fp32 on this host, one image on one thread; null where that is not known."
    )
    proven_on: list[str] = Field(
        description="Where its probes passed when it was made; empty of bundles made before that was written down.",
        examples=[["openvino on avx512_vnni", "onnxruntime on avx512_vnni"]],
    )


class ModelInfo(BaseModel):
    """The live model of the worker that answered."""

    version: int = Field(examples=[4])
    labels: list[str] = Field(examples=[["0", "1", "2"]])
    image_size: int = Field(description="Side of the model's square input in pixels.", examples=[32])
    channels: int = Field(description="1: grey, 3: RGB.", examples=[1])
    architecture: str
    variant: str = Field(description="`fp32`, `bf16` or `int8`.")
    runtime: str = Field(description="What computes it: `onnxruntime` or `openvino`.")
    variants: list[VariantStanding] = Field(description="All that the bundle has, and which answer or why not.")
    dataset_version: str
    run_id: str = Field(description="MLflow's run.")
    digest: str = Field(description="SHA-256 of bundle.json, which fixes every byte of the bundle.")
    deployment_id: int
    since: datetime = Field(description="When it was deployed.")
    replica: str = Field(description="The worker that answered.")


class Problem(BaseModel):
    """RFC 9457."""

    type: str = Field(examples=["urn:evergreen:problem:no_model"])
    title: str = Field(examples=["Service Unavailable"])
    status: int = Field(examples=[503])
    detail: str = Field(examples=["no model is live yet; ask /readyz when there is"])
    instance: str = Field(examples=["/v1/predict"])
    code: str = Field(examples=["no_model"])
    request_id: str


def problems(**by_status: str) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: ``problems(_422="not an image")``."""
    return {
        int(status.lstrip("_")): {
            "description": text,
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, text in by_status.items()
    }


def _printable_text(value: str) -> str:
    stripped = value.strip()
    if not stripped or not stripped.isprintable():
        raise ValueError("must hold printable characters, and not only white space")
    return stripped


Name = Annotated[
    str,
    Field(min_length=1, max_length=100, description="Who says so; is kept.", examples=["ann"]),
    AfterValidator(_printable_text),
]
Why = Annotated[
    str,
    Field(min_length=1, max_length=2000, description="Is kept.", examples=["worse on photos at night"]),
    AfterValidator(_printable_text),
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
    seconds: float = Field(description="From the request to its outcome.")
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
    decision_reason: str = Field(description="Why it was requested.")
    bundle_digest: str
    created_at: datetime
    trial_at: datetime | None
    served_from: datetime | None
    served_until: datetime | None


class Ledger(BaseModel):
    """The newest first."""

    deployments: list[LedgerRow]
