"""Drops that wait for a person"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("drops", sa.Column("findings", JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False))
    op.add_column("drops", sa.Column("approved_kinds", ARRAY(sa.Text()), server_default="{}", nullable=False))
    op.add_column("drops", sa.Column("approved_by", sa.Text()))
    op.add_column("drops", sa.Column("approved_at", sa.DateTime(timezone=True)))
    op.add_column("drops", sa.Column("approval_reason", sa.Text()))
    _status("status in ('claimed', 'held', 'accepted', 'rejected')", "status in ('claimed', 'held')")
    op.create_index("ix_drops_held", "drops", ["found_at"], postgresql_where=sa.text("status = 'held'"))


def downgrade() -> None:
    op.drop_index("ix_drops_held", "drops")
    op.execute(
        "update drops set status = 'rejected', finished_at = now(), reason = 'it was held at a downgrade' "
        "where status = 'held'"
    )
    op.execute("update cycles set verdict = 'stopped', finished_at = now() where verdict = 'held'")
    _status("status in ('claimed', 'accepted', 'rejected')", "status = 'claimed'")
    for name in ("findings", "approved_kinds", "approved_by", "approved_at", "approval_reason"):
        op.drop_column("drops", name)


def _status(allowed: str, unfinished: str) -> None:
    op.drop_constraint("ck_drops_status", "drops")
    op.drop_constraint("ck_drops_finished", "drops")
    op.create_check_constraint(op.f("ck_drops_status"), "drops", allowed)
    op.create_check_constraint(op.f("ck_drops_finished"), "drops", f"({unfinished}) = (finished_at is null)")
