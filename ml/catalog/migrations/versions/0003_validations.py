"""Results of suites, which later drops are compared with; finding what is held."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"


def _json(name: str, default: str) -> sa.Column:  # type: ignore[type-arg]
    return sa.Column(name, JSONB(), server_default=sa.text(f"'{default}'::jsonb"), nullable=False)


def upgrade() -> None:
    op.create_table(
        "validations",
        sa.Column("suite", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        _json("failures", "[]"),
        _json("warnings", "[]"),
        _json("figures", "{}"),
        sa.Column("report_key", sa.Text()),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("suite", "subject", name=op.f("pk_validations")),
    )
    op.create_index(op.f("ix_validations_suite_created_at"), "validations", ["suite", "created_at"])
    held = sa.text("status = 'held'")
    op.create_index("ix_quarantine_held", "quarantine", ["id"], postgresql_where=held)


def downgrade() -> None:
    op.drop_index("ix_quarantine_held", table_name="quarantine")
    op.drop_table("validations")
