"""The gate's use of alpha; decisions that wait for a person, and their answers"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.drop_constraint("ck_decisions_verdict", "decisions")
    verdicts = "verdict in ('promote', 'reject', 'needs_person', 'rollback')"
    op.create_check_constraint(op.f("ck_decisions_verdict"), "decisions", verdicts)
    op.create_table(
        "gate_looks",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("decision_id", sa.Text(), nullable=False),
        sa.Column("level", sa.Double(), nullable=False),
        sa.Column("event", sa.Boolean(), nullable=False),
        _created_at(),
        sa.ForeignKeyConstraint(["decision_id"], ["decisions.id"], name=op.f("fk_gate_looks_decision_id")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_gate_looks")),
        sa.UniqueConstraint("decision_id", name=op.f("uq_gate_looks_decision_id")),
    )
    op.create_table(
        "approvals",
        sa.Column("decision_id", sa.Text(), nullable=False),
        sa.Column("approved", sa.Boolean(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        _created_at(),
        sa.ForeignKeyConstraint(["decision_id"], ["decisions.id"], name=op.f("fk_approvals_decision_id")),
        sa.PrimaryKeyConstraint("decision_id", name=op.f("pk_approvals")),
    )


def downgrade() -> None:
    op.drop_table("approvals")
    op.drop_table("gate_looks")
    op.execute("update decisions set verdict = 'reject' where verdict = 'needs_person'")
    op.drop_constraint("ck_decisions_verdict", "decisions")
    op.create_check_constraint(
        op.f("ck_decisions_verdict"), "decisions", "verdict in ('promote', 'reject', 'rollback')"
    )


def _created_at() -> sa.Column:
    return sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False)
