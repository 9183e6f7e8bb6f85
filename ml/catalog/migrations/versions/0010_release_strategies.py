"""Release strategies: what is tried, what was counted, what was found"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, UUID

revision = "0010"
down_revision = "0009"

_STATUS = "status in ('trial', 'rolling', 'live', 'failed', 'superseded')"


def upgrade() -> None:
    op.add_column("deployments", sa.Column("strategy", sa.Text(), server_default="direct", nullable=False))
    op.add_column("deployments", sa.Column("share", sa.Double(), server_default="0", nullable=False))
    op.add_column("deployments", _json("findings"))
    op.add_column("deployments", sa.Column("trial_at", sa.DateTime(timezone=True)))
    op.drop_constraint("ck_deployments_status", "deployments")
    op.create_check_constraint(op.f("ck_deployments_status"), "deployments", _STATUS)
    strategies = "strategy in ('direct', 'shadow', 'canary')"
    op.create_check_constraint(op.f("ck_deployments_strategy"), "deployments", strategies)
    op.drop_index("uq_deployments_rolling", "deployments")
    is_open = sa.text("status in ('trial', 'rolling')")
    op.create_index("uq_deployments_open", "deployments", [sa.text("(0)")], unique=True, postgresql_where=is_open)
    op.add_column("replicas", sa.Column("candidate_deployment_id", sa.BigInteger()))
    op.create_table(
        "trial_tallies",
        sa.Column("deployment_id", sa.BigInteger(), nullable=False),
        sa.Column("replica", sa.Text(), nullable=False),
        _json("figures"),
        sa.ForeignKeyConstraint(["deployment_id"], ["deployments.id"], name=op.f("fk_trial_tallies_deployment_id")),
        sa.PrimaryKeyConstraint("deployment_id", "replica", name=op.f("pk_trial_tallies")),
    )
    op.create_table(
        "disagreements",
        sa.Column("deployment_id", sa.BigInteger(), nullable=False),
        sa.Column("prediction_id", UUID(), nullable=False),
        sa.Column("live_label", sa.Text(), nullable=False),
        sa.Column("live_probability", sa.Double(), nullable=False),
        sa.Column("candidate_label", sa.Text(), nullable=False),
        sa.Column("candidate_probability", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["deployment_id"], ["deployments.id"], name=op.f("fk_disagreements_deployment_id")),
        sa.PrimaryKeyConstraint("deployment_id", "prediction_id", name=op.f("pk_disagreements")),
    )
    op.create_index(op.f("ix_disagreements_prediction_id"), "disagreements", ["prediction_id"])


def downgrade() -> None:
    op.drop_table("disagreements")
    op.drop_table("trial_tallies")
    op.drop_column("replicas", "candidate_deployment_id")
    op.drop_index("uq_deployments_open", "deployments")
    op.execute("update deployments set status = 'failed', finished_at = now() where status = 'trial'")
    is_rolling = sa.text("status = 'rolling'")
    op.create_index("uq_deployments_rolling", "deployments", ["status"], unique=True, postgresql_where=is_rolling)
    op.drop_constraint("ck_deployments_strategy", "deployments")
    op.drop_constraint("ck_deployments_status", "deployments")
    op.create_check_constraint(
        op.f("ck_deployments_status"), "deployments", "status in ('rolling', 'live', 'failed', 'superseded')"
    )
    for name in ("strategy", "share", "findings", "trial_at"):
        op.drop_column("deployments", name)


def _json(name: str) -> sa.Column:
    return sa.Column(name, JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False)
