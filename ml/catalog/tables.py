"""The tables of database `evergreen`. A change here comes with a migration beside it.

Ids: drops, segments, dataset versions and bundles have content-derived ids (hex of SHA-256, truncated for
drops and segments); model versions are numbers of `model_versions`; prediction ids are UUIDv7.
"""

from sqlalchemy import (
    ARRAY,
    REAL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _now(name: str = "created_at") -> Column:  # type: ignore[type-arg]
    return Column(name, DateTime(timezone=True), nullable=False, server_default=func.now())


def _json(name: str, default: str = "{}") -> Column:  # type: ignore[type-arg]
    return Column(name, JSONB, nullable=False, server_default=text(f"'{default}'::jsonb"))


drops = Table(
    "drops",
    metadata,
    Column("id", Text, primary_key=True),
    Column("prefix", Text, nullable=False),
    Column("listing_digest", Text, nullable=False),
    Column("format", Text),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    Column("images", Integer, nullable=False, server_default="0"),
    Column("accepted", Integer, nullable=False, server_default="0"),
    Column("quarantined", Integer, nullable=False, server_default="0"),
    Column("duplicates", Integer, nullable=False, server_default="0"),
    Column("report_key", Text),
    Column("dataset_version", Text, ForeignKey("dataset_versions.id")),
    Column("ready_at", DateTime(timezone=True)),
    _now("found_at"),
    Column("finished_at", DateTime(timezone=True)),
    # What checks found in the drop as a whole, and which kinds of it a person approved: see `ml.catalog.held_drops`.
    _json("findings", "[]"),
    Column("approved_kinds", ARRAY(Text), nullable=False, server_default="{}"),
    Column("approved_by", Text),
    Column("approved_at", DateTime(timezone=True)),
    Column("approval_reason", Text),
    # Taken out of later dataset versions; the data stay.
    Column("reverted_at", DateTime(timezone=True)),
    Column("reverted_by", Text),
    Column("revert_reason", Text),
    # What a person asked for in the console, until it is carried out: see `ml.catalog.revert_requests`.
    Column("revert_request", Text),
    Column("revert_requested_by", Text),
    Column("revert_requested_at", DateTime(timezone=True)),
    Column("revert_request_reason", Text),
    UniqueConstraint("prefix", "listing_digest"),
    CheckConstraint("status in ('claimed', 'held', 'accepted', 'rejected')", name="status"),
    CheckConstraint("(status in ('claimed', 'held')) = (finished_at is null)", name="finished"),
    CheckConstraint("revert_request in ('revert', 'restore')", name="revert_request"),
    Index(None, "found_at"),
    Index("ix_drops_held", "found_at", postgresql_where=text("status = 'held'")),
    Index("ix_drops_revert_requests", "revert_requested_at", postgresql_where=text("revert_request is not null")),
)

samples = Table(
    "samples",
    metadata,
    Column("sha256", Text, primary_key=True),
    Column("group_id", Text, nullable=False),
    Column("split", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("drop_id", Text, nullable=False),  # no foreign key: acceptance locks the row of the drop
    Column("segment_id", Text, ForeignKey("segments.id"), nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("subject", Text),
    # Not in the newest dataset version, because its drop was reverted.
    Column("removed", Boolean, nullable=False, server_default="false"),
    # The two halves of the perceptual hash: see `ml.datasets.near_duplicates`.
    Column("phash_high", Integer),
    Column("phash_low", Integer),
    # 16 x 16 grey levels, empty if they could not be made; null until `maintain` has made them.
    Column("thumbnail", LargeBinary),
    # Null if the image is nearly blank: see `ml.datasets.near_copies`.
    Column("copy_signature", BigInteger),
    # Steps from copy to copy to the sample that the group is named after.
    Column("copy_links", SmallInteger, nullable=False, server_default="0"),
    # Removed for good, as a copy of a sample of another split: see `ml.datasets.dedupe`.
    Column("left_out", Boolean, nullable=False, server_default="false"),
    _now(),
    CheckConstraint("split in ('train', 'validation', 'holdout')", name="split"),
    Index(None, "segment_id"),
    Index(None, "drop_id"),
    Index(None, "label", "split"),
    Index(None, "phash_high"),
    Index(None, "phash_low"),
    Index(None, "copy_signature"),
    Index("ix_samples_without_thumbnail", "segment_id", postgresql_where=text("thumbnail is null")),
    Index(None, "subject", postgresql_where=text("subject is not null")),
)

labels = Table(
    "labels",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("sha256", Text, ForeignKey("samples.sha256"), nullable=False),
    Column("label", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("annotator", Text),
    Column("confidence", Double),
    Column("labelled_at", DateTime(timezone=True)),
    Column("drop_id", Text),  # likewise
    _now(),
    # The annotator's feedback was taken out as a whole: the annotation does not count any more.
    Column("revoked_at", DateTime(timezone=True)),
    Index(None, "sha256"),
    Index(None, "drop_id"),
)

# Every change of a stored sample's label, except that of a whole class: see `ml.catalog.label_changes`.
label_changes = Table(
    "label_changes",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("sha256", Text, nullable=False),
    Column("split", Text, nullable=False),
    Column("before", Text, nullable=False),
    Column("after", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("cause", Text, nullable=False),
    Column("drop_id", Text),
    _now(),
    Index(None, "sha256"),
    Index(None, "drop_id"),
    Index(None, "created_at"),
    Index("ix_label_changes_evaluation", "id", postgresql_where=text("split <> 'train'")),
)

# One row: the secret by which groups are split, see `ml.catalog.split_salt`.
split_salts = Table(
    "split_salts",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("salt", Text, nullable=False),
    _now(),
    CheckConstraint("id = 1", name="one"),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("drop_id", Text, ForeignKey("drops.id"), nullable=False),
    Column("key", Text, nullable=False),
    Column("label", Text),
    Column("sha256", Text),
    _json("reasons", "[]"),
    Column("object_key", Text),
    Column("status", Text, nullable=False, server_default="held"),
    Column("actor", Text),
    Column("note", Text),
    Column("released_to", Text),
    Column("ended_at", DateTime(timezone=True)),
    _now(),
    UniqueConstraint("drop_id", "key"),
    CheckConstraint("status in ('held', 'released', 'discarded')", name="status"),
    Index("ix_quarantine_held", "id", postgresql_where=text("status = 'held'")),
    Index(None, "sha256", postgresql_where=text("sha256 is not null")),
)

segments = Table(
    "segments",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tar_key", Text, nullable=False),
    Column("index_key", Text, nullable=False),
    Column("samples", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("tar_sha256", Text, nullable=False),
    Column("index_sha256", Text, nullable=False),
    _now(),
    # When an erasure took its objects out of the store; hosts then delete their cached copies.
    Column("erased_at", DateTime(timezone=True)),
)

dataset_versions = Table(
    "dataset_versions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("number", BigInteger, Identity(), nullable=False, unique=True),
    Column("parent_id", Text, ForeignKey("dataset_versions.id")),
    Column("manifest_key", Text, nullable=False),
    _json("classes", "[]"),
    Column("train", Integer, nullable=False),
    Column("validation", Integer, nullable=False),
    Column("holdout", Integer, nullable=False),
    Column("cause", Text, nullable=False),
    Column("frozen_holdout", Boolean, nullable=False, server_default="false"),
    _now(),
    # The frozen part of the holdout is that of one version, permanently.
    Index("uq_dataset_versions_frozen", "frozen_holdout", unique=True, postgresql_where=text("frozen_holdout")),
)

cycles = Table(
    "cycles",
    metadata,
    Column("id", Text, primary_key=True),
    Column("origin", Text, nullable=False),
    Column("drop_id", Text, ForeignKey("drops.id"), unique=True),
    Column("dataset_version", Text, ForeignKey("dataset_versions.id")),
    Column("run_id", Text),
    Column("model_version", Integer),
    Column("decision_id", Text, ForeignKey("decisions.id")),
    Column("verdict", Text),
    Column("reason", Text),
    _json("seconds"),
    _now("started_at"),
    Column("live_at", DateTime(timezone=True)),
    Column("finished_at", DateTime(timezone=True)),
    Index(None, "started_at"),
)

# What a model version is, for ever: MLflow's registry is a copy of it for people, who may delete or rename there.
model_versions = Table(
    "model_versions",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("run_id", Text, nullable=False, server_default=""),
    Column("bundle_prefix", Text, nullable=False, unique=True),
    Column("bundle_digest", Text, nullable=False, index=True),
    # Its number in MLflow, where numbers begin anew when the registered model is renamed.
    Column("registered_version", Integer, index=True),
    _json("tags"),
    _now(),
)

scores = Table(
    "scores",
    metadata,
    Column("model_version", Integer, primary_key=True),
    Column("segment_id", Text, ForeignKey("segments.id"), primary_key=True),
    Column("object_key", Text, nullable=False),
    _now(),
)

decisions = Table(
    "decisions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("model_version", Integer, nullable=False),
    Column("champion_version", Integer),
    Column("dataset_version", Text, ForeignKey("dataset_versions.id")),
    Column("verdict", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    _json("statistics"),
    Column("report_key", Text),
    _now(),
    CheckConstraint("verdict in ('promote', 'reject', 'needs_person', 'rollback')", name="verdict"),
    Index(None, "model_version"),
)

# Comparisons with a champion on the holdout, numbered in order: see `ml.gate.budget`.
gate_looks = Table(
    "gate_looks",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("decision_id", Text, ForeignKey("decisions.id"), nullable=False, unique=True),
    Column("level", Double, nullable=False),
    Column("event", Boolean, nullable=False),
    _now(),
)

# Answers to decisions that need an approval; without one in time, a rejection by actor `timeout`.
approvals = Table(
    "approvals",
    metadata,
    Column("decision_id", Text, ForeignKey("decisions.id"), primary_key=True),
    Column("approved", Boolean, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    _now(),
)

_OPEN = text("status in ('trial', 'rolling')")

deployments = Table(
    "deployments",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("model_version", Integer, nullable=False),
    Column("previous_version", Integer),
    Column("decision_id", Text, ForeignKey("decisions.id"), nullable=False),
    Column("bundle_prefix", Text, nullable=False),
    Column("bundle_digest", Text, nullable=False),
    Column("strategy", Text, nullable=False, server_default="direct"),
    Column("share", Double, nullable=False, server_default="0"),
    Column("status", Text, nullable=False, server_default="rolling"),
    Column("reason", Text),
    _json("findings"),
    _now(),
    Column("trial_at", DateTime(timezone=True)),
    Column("finished_at", DateTime(timezone=True)),
    CheckConstraint("status in ('trial', 'rolling', 'live', 'failed', 'superseded')", name="status"),
    CheckConstraint("strategy in ('direct', 'shadow', 'canary')", name="strategy"),
    # One at a time, whatever its stage: all rows that have not ended have the same key.
    Index("uq_deployments_open", text("(0)"), unique=True, postgresql_where=_OPEN),
)

# What a replica counted of a deployment's trial. The rows outlive replicas that die.
trial_tallies = Table(
    "trial_tallies",
    metadata,
    Column("deployment_id", BigInteger, ForeignKey("deployments.id"), primary_key=True),
    Column("replica", Text, primary_key=True),
    _json("figures"),
)

# Answers of a shadowed model that its challenger would have given otherwise.
disagreements = Table(
    "disagreements",
    metadata,
    Column("deployment_id", BigInteger, ForeignKey("deployments.id"), primary_key=True),
    Column("prediction_id", UUID, primary_key=True),
    Column("live_label", Text, nullable=False),
    Column("live_probability", Double, nullable=False),
    Column("candidate_label", Text, nullable=False),
    Column("candidate_probability", Double, nullable=False),
    Index(None, "prediction_id"),
)

replicas = Table(
    "replicas",
    metadata,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    _now("started_at"),
    _now("heartbeat_at"),
    Column("deployment_id", BigInteger),
    Column("model_version", Integer),
    Column("candidate_deployment_id", BigInteger),
    Column("failed_deployment_id", BigInteger),
    Column("error", Text),
    # The newest erasure whose images its spool is free of.
    Column("erasure_id", BigInteger),
)

predictions = Table(
    "predictions",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("at", DateTime(timezone=True), primary_key=True),
    Column("model_version", Integer, nullable=False),
    Column("variant", Text),
    Column("label", Text, nullable=False),
    Column("probability", Double, nullable=False),
    _json("top"),
    # Why the answer is unreliable; null if it is not.
    Column("rejected", Text),
    Column("distance", REAL),
    Column("milliseconds", Double, nullable=False),
    Column("queue_milliseconds", REAL),
    Column("decode_milliseconds", REAL),
    Column("inference_milliseconds", REAL),
    Column("image_sha256", Text, nullable=False),
    Column("image_object", Text),
    Column("image_offset", BigInteger),
    Column("image_size", BigInteger),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("brightness", Double, nullable=False),
    Column("caller", Text),
    Column("client_key", Text),
    Column("replica", Text, nullable=False),
    Index(None, "model_version", "at"),
    Index(None, "client_key", postgresql_where=text("client_key is not null")),
    # For erasures: a quarter of the size of an index of whole hashes (docs/decisions/0039).
    Index("ix_predictions_image", text("left(image_sha256, 7)")),
    postgresql_partition_by="RANGE (at)",
)

# Hourly counts, so that pages and monitoring need not scan the log; updated by `ml.catalog.predictions.store`.
prediction_hours = Table(
    "prediction_hours",
    metadata,
    Column("hour", DateTime(timezone=True), primary_key=True),
    Column("model_version", Integer, primary_key=True, autoincrement=False),
    Column("label", Text, primary_key=True),
    Column("answers", BigInteger, nullable=False),
    Column("rejected", BigInteger, nullable=False),
    Column("brightness", Double, nullable=False),
)

_LEVELS = "level in ('propose', 'annotate', 'review')"

# What people say of predictions: see `ml.catalog.feedback`.
feedback = Table(
    "feedback",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("prediction_id", UUID, nullable=False),
    # Time of the prediction: limits the lookup to one partition.
    Column("predicted_at", DateTime(timezone=True), nullable=False),
    Column("label", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("comment", Text),
    Column("caller", Text),
    Column("drop_prefix", Text),
    _now("given_at"),
    _now(),
    # The identity of the API key; empty where it is not known.
    Column("key_id", Text, nullable=False, server_default=""),
    Column("level", Text, nullable=False, server_default="propose"),
    Column("status", Text, nullable=False, server_default="stored"),
    # Null: the prediction is not in the log yet.
    Column("image_sha256", Text),
    # Whether the review queue has been told.
    Column("queued", Boolean, nullable=False, server_default="false"),
    # The label replaced one that is in the data already.
    Column("changed", Boolean, nullable=False, server_default="false"),
    # When a reviewer's label became the sample's.
    Column("applied_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
    UniqueConstraint("prediction_id", "key_id", "source"),
    CheckConstraint(_LEVELS, name="level"),
    CheckConstraint("status in ('waiting', 'stored', 'refused')", name="status"),
    Index(None, "predicted_at"),
    Index(None, "image_sha256"),
    Index(None, "key_id", "given_at"),
    Index("ix_feedback_waiting", "key_id", postgresql_where=text("status = 'waiting'")),
    Index("ix_feedback_unqueued", "id", postgresql_where=text("not queued")),
    Index("ix_feedback_reviews", "image_sha256", postgresql_where=text("level = 'review'")),
)

# Feedback by client key whose prediction is not logged yet.
feedback_waiting = Table(
    "feedback_waiting",
    metadata,
    Column("client_key", Text, primary_key=True),
    Column("caller", Text, primary_key=True, server_default=""),
    Column("source", Text, primary_key=True),
    Column("label", Text, nullable=False),
    Column("comment", Text),
    _now("given_at"),
    Column("key_id", Text, nullable=False, server_default=""),
    Column("level", Text, nullable=False, server_default="propose"),
    CheckConstraint(_LEVELS, name="level"),
    Index(None, "key_id"),
)

# Callers whose feedback is not collected (paused), was taken out (revoked), or counts again (resumed).
feedback_callers = Table(
    "feedback_callers",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("status", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    _now("changed_at"),
    # When the annotations of a revoked caller had been taken out of the data.
    Column("neutralised_at", DateTime(timezone=True)),
    CheckConstraint("status in ('paused', 'revoked', 'resumed')", name="status"),
)

# Drops that the loop made of feedback, with the level that each annotator had then. Never changed afterwards.
feedback_drops = Table(
    "feedback_drops",
    metadata,
    Column("prefix", Text, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("level", Text, nullable=False),
    CheckConstraint(_LEVELS, name="level"),
)

# Decisions about classes that feedback proposed.
class_proposals = Table(
    "class_proposals",
    metadata,
    Column("name", Text, primary_key=True),
    Column("status", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    _now("decided_at"),
    CheckConstraint("status in ('confirmed', 'declined')", name="status"),
)

label_tasks = Table(
    "label_tasks",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("prediction_id", UUID, unique=True),
    Column("sha256", Text),
    Column("reason", Text, nullable=False),
    Column("score", Double, nullable=False),
    Column("label", Text),
    Column("suggested", Text),
    _json("details"),
    Column("status", Text, nullable=False, server_default="open"),
    _now(),
    Column("answer", Text),
    Column("answered_by", Text),
    # Answered: by the service; the answer becomes the sample's label at the next collection of feedback.
    CheckConstraint("status in ('open', 'answered', 'done', 'dismissed')", name="status"),
    Index(None, "sha256"),
    Index("uq_label_tasks_open", "sha256", "reason", unique=True, postgresql_where=text("status = 'open'")),
)

class_operations = Table(
    "class_operations",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("kind", Text, nullable=False),
    _json("classes_before", "[]"),
    _json("classes_after", "[]"),
    Column("samples", Integer, nullable=False),
    Column("dataset_version", Text, ForeignKey("dataset_versions.id"), nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    _now(),
    CheckConstraint("kind in ('rename', 'merge', 'split')", name="kind"),
)

# Bulk corrections; what they changed, so that it can be undone.
label_fixes = Table(
    "label_fixes",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("prefix", Text, nullable=False),
    Column("label_before", Text, nullable=False),
    Column("label_after", Text, nullable=False),
    Column("sha256", ARRAY(Text), nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("dataset_version", Text, ForeignKey("dataset_versions.id"), nullable=False),
    _now(),
    Column("undone_at", DateTime(timezone=True)),
    Column("undone_by", Text),
)

# No foreign keys to erased rows: this row outlives them.
erasures = Table(
    "erasures",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    _json("models", "[]"),
    Column("dataset_version", Text, ForeignKey("dataset_versions.id")),
    # Segments that held erased samples: their objects are deleted.
    Column("segments", ARRAY(Text), nullable=False, server_default="{}"),
    _json("receipt"),
    _now(),
    Column("finished_at", DateTime(timezone=True)),
    Index("ix_erasures_unfinished", "id", postgresql_where=text("finished_at is null")),
)

# What was erased, as HMAC-SHA-256 of its SHA-256 with `erasure_secret`; the SHA-256 itself only until the
# erasure has finished. `size` is that of the encoded image in bytes, if it was found.
erased_content = Table(
    "erased_content",
    metadata,
    Column("hmac", Text, primary_key=True),
    Column("erasure_id", BigInteger, ForeignKey("erasures.id"), primary_key=True),
    Column("sha256", Text),
    Column("size", BigInteger),
    Index(None, "erasure_id"),
)

# One row, made by the migration.
erasure_secret = Table(
    "erasure_secret",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("secret", LargeBinary, nullable=False),
    CheckConstraint("id = 1", name="one"),
)

# What each drop added to the holdout, in groups by class: see `ml.datasets.holdout_growth`.
holdout_growth = Table(
    "holdout_growth",
    metadata,
    Column("drop_id", Text, primary_key=True),
    Column("before", Integer, nullable=False),
    Column("samples", Integer, nullable=False),
    _json("added"),
    _json("diverted"),
    _now(),
    Index(None, "created_at"),
)

# Decisions made on each part of the holdout; their number shows how far it can still be trusted.
holdout_uses = Table(
    "holdout_uses",
    metadata,
    Column("decision_id", Text, ForeignKey("decisions.id"), primary_key=True),
    Column("part", Text, primary_key=True),
    Column("samples", Integer, nullable=False),
    _now(),
    CheckConstraint("part in ('frozen', 'growing')", name="part"),
)

drift_reports = Table(
    "drift_reports",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("model_version", Integer),
    Column("window_start", DateTime(timezone=True), nullable=False),
    Column("window_end", DateTime(timezone=True), nullable=False),
    Column("predictions", Integer, nullable=False),
    _json("statistics"),
    Column("retrain", Boolean, nullable=False),
    Column("reasons", ARRAY(Text), nullable=False, server_default="{}"),
    _now(),
)

# Results of the suites in `expectations/` for drops, dataset versions and the prediction log.
validations = Table(
    "validations",
    metadata,
    Column("suite", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("passed", Boolean, nullable=False),
    _json("failures", "[]"),
    _json("warnings", "[]"),
    _json("figures"),
    Column("report_key", Text),
    _now(),
    Index(None, "suite", "created_at"),
)

# API keys of the service: see `ml.catalog.api_keys`. Rows are never deleted; only the hash of a key is stored.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("sha256", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("roles", ARRAY(Text), nullable=False),
    Column("per_second", Double),
    Column("burst", Integer),
    Column("created_by", Text, nullable=False),
    _now(),
    Column("changed_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
    Column("used_at", DateTime(timezone=True)),
    # The id of the first key of this caller; rotation keeps it.
    Column("identity", Text, nullable=False),
    CheckConstraint(
        "cardinality(roles) > 0 and roles <@ '{predict,feedback,annotate,review,operate,admin}'::text[]", name="roles"
    ),
    CheckConstraint("(per_second is null) = (burst is null)", name="limits"),
    Index(None, "name"),
)
