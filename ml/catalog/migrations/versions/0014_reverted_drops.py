"""Drops can be reverted, labels fixed in bulk"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.add_column("drops", sa.Column("reverted_at", sa.DateTime(timezone=True)))
    op.add_column("drops", sa.Column("reverted_by", sa.Text()))
    op.add_column("drops", sa.Column("revert_reason", sa.Text()))
    # A constant default is kept in the catalog of Postgres: no row is rewritten.
    op.add_column("samples", sa.Column("removed", sa.Boolean(), server_default="false", nullable=False))
    # What a drop said of samples that others had brought.
    op.create_index(op.f("ix_labels_drop_id"), "labels", ["drop_id"])
    op.create_table(
        "label_fixes",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("label_before", sa.Text(), nullable=False),
        sa.Column("label_after", sa.Text(), nullable=False),
        sa.Column("sha256", ARRAY(sa.Text()), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("dataset_version", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("undone_at", sa.DateTime(timezone=True)),
        sa.Column("undone_by", sa.Text()),
        sa.ForeignKeyConstraint(
            ["dataset_version"], ["dataset_versions.id"], name=op.f("fk_label_fixes_dataset_version")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_label_fixes")),
    )


def downgrade() -> None:
    op.drop_table("label_fixes")
    op.drop_index(op.f("ix_labels_drop_id"), "labels")
    op.drop_column("samples", "removed")
    for name in ("revert_reason", "reverted_by", "reverted_at"):
        op.drop_column("drops", name)
