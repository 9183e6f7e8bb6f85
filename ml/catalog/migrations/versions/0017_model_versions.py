"""Model versions and their bundles are recorded in the catalog"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    # Rows come from MLflow and `deployments` when a version is first asked for: a migration cannot reach MLflow.
    op.create_table(
        "model_versions",
        sa.Column("version", sa.Integer(), autoincrement=False),
        sa.Column("run_id", sa.Text(), nullable=False, server_default=""),
        sa.Column("bundle_prefix", sa.Text(), nullable=False),
        sa.Column("bundle_digest", sa.Text(), nullable=False),
        sa.Column("registered_version", sa.Integer()),
        sa.Column("tags", JSONB(), nullable=False, server_default=sa.text("'{}'::jsonb")),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_model_versions")),
        sa.UniqueConstraint("bundle_prefix", name=op.f("uq_model_versions_bundle_prefix")),
    )
    op.create_index(op.f("ix_model_versions_bundle_digest"), "model_versions", ["bundle_digest"])
    op.create_index(op.f("ix_model_versions_registered_version"), "model_versions", ["registered_version"])


def downgrade() -> None:
    op.drop_table("model_versions")
