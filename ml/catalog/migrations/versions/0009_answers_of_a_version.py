"""The newest answers of one version, by index; the newest of all are found by their ids"""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_index(op.f("ix_predictions_model_version_at"), "predictions", ["model_version", "at"])
    op.drop_index(op.f("ix_predictions_at"), "predictions")


def downgrade() -> None:
    op.create_index(op.f("ix_predictions_at"), "predictions", ["at"])
    op.drop_index(op.f("ix_predictions_model_version_at"), "predictions")
