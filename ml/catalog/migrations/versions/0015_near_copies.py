"""Thumbnails and signatures by which copies of an image are found; `maintain` makes those of stored samples"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.add_column("samples", sa.Column("thumbnail", sa.LargeBinary()))
    op.add_column("samples", sa.Column("copy_signature", sa.BigInteger()))
    op.add_column("samples", sa.Column("copy_links", sa.SmallInteger(), nullable=False, server_default="0"))
    op.add_column("samples", sa.Column("left_out", sa.Boolean(), nullable=False, server_default="false"))
    op.create_index(op.f("ix_samples_copy_signature"), "samples", ["copy_signature"])
    op.create_index(
        "ix_samples_without_thumbnail", "samples", ["segment_id"], postgresql_where=sa.text("thumbnail is null")
    )


def downgrade() -> None:
    op.drop_index("ix_samples_without_thumbnail", "samples")
    op.drop_index(op.f("ix_samples_copy_signature"), "samples")
    for column in ("left_out", "copy_links", "copy_signature", "thumbnail"):
        op.drop_column("samples", column)
