"""Reverts can be asked for in the console"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.add_column("drops", sa.Column("revert_request", sa.Text()))
    op.add_column("drops", sa.Column("revert_requested_by", sa.Text()))
    op.add_column("drops", sa.Column("revert_requested_at", sa.DateTime(timezone=True)))
    op.add_column("drops", sa.Column("revert_request_reason", sa.Text()))
    op.create_check_constraint(op.f("ck_drops_revert_request"), "drops", "revert_request in ('revert', 'restore')")
    requested = sa.text("revert_request is not null")
    op.create_index("ix_drops_revert_requests", "drops", ["revert_requested_at"], postgresql_where=requested)


def downgrade() -> None:
    op.drop_index("ix_drops_revert_requests", "drops")
    op.drop_constraint(op.f("ck_drops_revert_request"), "drops")
    for name in ("revert_request_reason", "revert_requested_at", "revert_requested_by", "revert_request"):
        op.drop_column("drops", name)
