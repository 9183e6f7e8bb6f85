"""Nothing looks samples up by group: its index only made acceptance slower"""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.drop_index(op.f("ix_samples_group_id"), "samples")
