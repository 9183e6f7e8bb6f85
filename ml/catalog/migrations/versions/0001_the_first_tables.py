"""The first tables"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "dataset_versions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("parent_id", sa.Text(), nullable=True),
        sa.Column("manifest_key", sa.Text(), nullable=False),
        sa.Column(
            "classes", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column("train", sa.Integer(), nullable=False),
        sa.Column("validation", sa.Integer(), nullable=False),
        sa.Column("holdout", sa.Integer(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["parent_id"], ["dataset_versions.id"], name=op.f("fk_dataset_versions_parent_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset_versions")),
        sa.UniqueConstraint("number", name=op.f("uq_dataset_versions_number")),
    )
    op.create_table(
        "drift_reports",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("model_version", sa.Integer(), nullable=True),
        sa.Column("window_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("window_end", sa.DateTime(timezone=True), nullable=False),
        sa.Column("predictions", sa.Integer(), nullable=False),
        sa.Column(
            "statistics", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("retrain", sa.Boolean(), nullable=False),
        sa.Column("reasons", sa.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_drift_reports")),
    )
    op.create_table(
        "feedback",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("prediction_id", sa.UUID(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("drop_prefix", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_feedback")),
        sa.UniqueConstraint("prediction_id", "source", name=op.f("uq_feedback_prediction_id_source")),
    )
    op.create_table(
        "label_tasks",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("prediction_id", sa.UUID(), nullable=True),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("status", sa.Text(), server_default="open", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("status in ('open', 'done', 'dismissed')", name=op.f("ck_label_tasks_status")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_label_tasks")),
        sa.UniqueConstraint("prediction_id", name=op.f("uq_label_tasks_prediction_id")),
    )
    op.create_table(
        "predictions",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("model_version", sa.Integer(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("probability", sa.Double(), nullable=False),
        sa.Column(
            "top", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("milliseconds", sa.Double(), nullable=False),
        sa.Column("image_sha256", sa.Text(), nullable=False),
        sa.Column("image_object", sa.Text(), nullable=True),
        sa.Column("image_offset", sa.BigInteger(), nullable=True),
        sa.Column("image_size", sa.BigInteger(), nullable=True),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("brightness", sa.Double(), nullable=False),
        sa.Column("client_key", sa.Text(), nullable=True),
        sa.Column("replica", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", "at", name=op.f("pk_predictions")),
        postgresql_partition_by="RANGE (at)",
    )
    op.create_index(op.f("ix_predictions_at"), "predictions", ["at"], unique=False)
    op.create_index(
        op.f("ix_predictions_client_key"),
        "predictions",
        ["client_key"],
        unique=False,
        postgresql_where=sa.text("client_key is not null"),
    )
    op.create_table(
        "replicas",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deployment_id", sa.BigInteger(), nullable=True),
        sa.Column("model_version", sa.Integer(), nullable=True),
        sa.Column("failed_deployment_id", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replicas")),
    )
    op.create_table(
        "segments",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tar_key", sa.Text(), nullable=False),
        sa.Column("index_key", sa.Text(), nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("tar_sha256", sa.Text(), nullable=False),
        sa.Column("index_sha256", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_segments")),
    )
    op.create_table(
        "decisions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("model_version", sa.Integer(), nullable=False),
        sa.Column("champion_version", sa.Integer(), nullable=True),
        sa.Column("dataset_version", sa.Text(), nullable=True),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column(
            "statistics", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("report_key", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("verdict in ('promote', 'reject', 'rollback')", name=op.f("ck_decisions_verdict")),
        sa.ForeignKeyConstraint(
            ["dataset_version"], ["dataset_versions.id"], name=op.f("fk_decisions_dataset_version")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decisions")),
    )
    op.create_index(op.f("ix_decisions_model_version"), "decisions", ["model_version"], unique=False)
    op.create_table(
        "drops",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("listing_digest", sa.Text(), nullable=False),
        sa.Column("format", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("images", sa.Integer(), server_default="0", nullable=False),
        sa.Column("accepted", sa.Integer(), server_default="0", nullable=False),
        sa.Column("quarantined", sa.Integer(), server_default="0", nullable=False),
        sa.Column("duplicates", sa.Integer(), server_default="0", nullable=False),
        sa.Column("report_key", sa.Text(), nullable=True),
        sa.Column("dataset_version", sa.Text(), nullable=True),
        sa.Column("ready_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("found_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(status = 'claimed') = (finished_at is null)", name=op.f("ck_drops_finished")),
        sa.CheckConstraint("status in ('claimed', 'accepted', 'rejected')", name=op.f("ck_drops_status")),
        sa.ForeignKeyConstraint(["dataset_version"], ["dataset_versions.id"], name=op.f("fk_drops_dataset_version")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_drops")),
        sa.UniqueConstraint("prefix", "listing_digest", name=op.f("uq_drops_prefix_listing_digest")),
    )
    op.create_index(op.f("ix_drops_found_at"), "drops", ["found_at"], unique=False)
    op.create_table(
        "scores",
        sa.Column("model_version", sa.Integer(), nullable=False),
        sa.Column("segment_id", sa.Text(), nullable=False),
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["segment_id"], ["segments.id"], name=op.f("fk_scores_segment_id")),
        sa.PrimaryKeyConstraint("model_version", "segment_id", name=op.f("pk_scores")),
    )
    op.create_table(
        "cycles",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("drop_id", sa.Text(), nullable=True),
        sa.Column("dataset_version", sa.Text(), nullable=True),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("model_version", sa.Integer(), nullable=True),
        sa.Column("decision_id", sa.Text(), nullable=True),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column(
            "seconds", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("live_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["dataset_version"], ["dataset_versions.id"], name=op.f("fk_cycles_dataset_version")),
        sa.ForeignKeyConstraint(["decision_id"], ["decisions.id"], name=op.f("fk_cycles_decision_id")),
        sa.ForeignKeyConstraint(["drop_id"], ["drops.id"], name=op.f("fk_cycles_drop_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cycles")),
        sa.UniqueConstraint("drop_id", name=op.f("uq_cycles_drop_id")),
    )
    op.create_index(op.f("ix_cycles_started_at"), "cycles", ["started_at"], unique=False)
    op.create_table(
        "deployments",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("model_version", sa.Integer(), nullable=False),
        sa.Column("previous_version", sa.Integer(), nullable=True),
        sa.Column("decision_id", sa.Text(), nullable=False),
        sa.Column("bundle_prefix", sa.Text(), nullable=False),
        sa.Column("bundle_digest", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="rolling", nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("status in ('rolling', 'live', 'failed', 'superseded')", name=op.f("ck_deployments_status")),
        sa.ForeignKeyConstraint(["decision_id"], ["decisions.id"], name=op.f("fk_deployments_decision_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployments")),
    )
    op.create_index(
        "uq_deployments_rolling", "deployments", ["status"], unique=True, postgresql_where=sa.text("status = 'rolling'")
    )
    op.create_table(
        "quarantine",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("drop_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column(
            "reasons", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column("object_key", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), server_default="held", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("status in ('held', 'released', 'discarded')", name=op.f("ck_quarantine_status")),
        sa.ForeignKeyConstraint(["drop_id"], ["drops.id"], name=op.f("fk_quarantine_drop_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quarantine")),
        sa.UniqueConstraint("drop_id", "key", name=op.f("uq_quarantine_drop_id_key")),
    )
    op.create_table(
        "samples",
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("group_id", sa.Text(), nullable=False),
        sa.Column("split", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("drop_id", sa.Text(), nullable=False),
        sa.Column("segment_id", sa.Text(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("split in ('train', 'validation', 'holdout')", name=op.f("ck_samples_split")),
        sa.ForeignKeyConstraint(["drop_id"], ["drops.id"], name=op.f("fk_samples_drop_id")),
        sa.ForeignKeyConstraint(["segment_id"], ["segments.id"], name=op.f("fk_samples_segment_id")),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_samples")),
    )
    op.create_index(op.f("ix_samples_group_id"), "samples", ["group_id"], unique=False)
    op.create_index(op.f("ix_samples_segment_id"), "samples", ["segment_id"], unique=False)
    op.create_table(
        "labels",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("annotator", sa.Text(), nullable=True),
        sa.Column("confidence", sa.Double(), nullable=True),
        sa.Column("labelled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("drop_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["drop_id"], ["drops.id"], name=op.f("fk_labels_drop_id")),
        sa.ForeignKeyConstraint(["sha256"], ["samples.sha256"], name=op.f("fk_labels_sha256")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_labels")),
    )
    op.create_index(op.f("ix_labels_sha256"), "labels", ["sha256"], unique=False)
    # Rows of a day nobody made a partition for yet must not be refused.
    op.execute("create table predictions_default partition of predictions default")


def downgrade() -> None:
    op.drop_index(op.f("ix_labels_sha256"), table_name="labels")
    op.drop_table("labels")
    op.drop_index(op.f("ix_samples_segment_id"), table_name="samples")
    op.drop_index(op.f("ix_samples_group_id"), table_name="samples")
    op.drop_table("samples")
    op.drop_table("quarantine")
    op.drop_index("uq_deployments_rolling", table_name="deployments", postgresql_where=sa.text("status = 'rolling'"))
    op.drop_table("deployments")
    op.drop_index(op.f("ix_cycles_started_at"), table_name="cycles")
    op.drop_table("cycles")
    op.drop_table("scores")
    op.drop_index(op.f("ix_drops_found_at"), table_name="drops")
    op.drop_table("drops")
    op.drop_index(op.f("ix_decisions_model_version"), table_name="decisions")
    op.drop_table("decisions")
    op.drop_table("segments")
    op.drop_table("replicas")
    op.drop_index(
        op.f("ix_predictions_client_key"), table_name="predictions", postgresql_where=sa.text("client_key is not null")
    )
    op.drop_index(op.f("ix_predictions_at"), table_name="predictions")
    op.drop_table("predictions")
    op.drop_table("label_tasks")
    op.drop_table("feedback")
    op.drop_table("drift_reports")
    op.drop_table("dataset_versions")
