"""More of each answer, counts by the hour, feedback by a client's own key"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_ANSWER = {
    "variant": sa.Text(),
    "rejected": sa.Text(),
    "distance": sa.REAL(),
    "queue_milliseconds": sa.REAL(),
    "decode_milliseconds": sa.REAL(),
    "inference_milliseconds": sa.REAL(),
    "caller": sa.Text(),
}
# The first 48 bits of a UUIDv7: milliseconds since 1970.
_MADE = "to_timestamp(('x' || substr(replace(prediction_id::text, '-', ''), 1, 12))::bit(48)::bigint / 1000.0)"


def upgrade() -> None:
    for name, kind in _ANSWER.items():
        op.add_column("predictions", sa.Column(name, kind, nullable=True))
    op.create_table(
        "prediction_hours",
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("model_version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("answers", sa.BigInteger(), nullable=False),
        sa.Column("rejected", sa.BigInteger(), nullable=False),
        sa.Column("brightness", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("hour", "model_version", "label", name=op.f("pk_prediction_hours")),
    )
    op.execute(
        "insert into prediction_hours select date_trunc('hour', at, 'UTC'), model_version, label, count(*), 0, "
        "sum(brightness) from predictions group by 1, 2, 3"
    )
    op.add_column("feedback", sa.Column("caller", sa.Text(), nullable=True))
    op.add_column("feedback", _now("given_at"))
    op.add_column("feedback", sa.Column("predicted_at", sa.DateTime(timezone=True), nullable=True))
    op.execute(f"update feedback set given_at = created_at, predicted_at = {_MADE}")  # noqa: S608 - our own words
    op.alter_column("feedback", "predicted_at", nullable=False)
    op.create_index(op.f("ix_feedback_predicted_at"), "feedback", ["predicted_at"])
    op.create_table(
        "feedback_waiting",
        sa.Column("client_key", sa.Text(), nullable=False),
        sa.Column("caller", sa.Text(), server_default="", nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=True),
        _now("given_at"),
        sa.PrimaryKeyConstraint("client_key", "caller", "source", name=op.f("pk_feedback_waiting")),
    )


def downgrade() -> None:
    op.drop_table("feedback_waiting")
    op.drop_index(op.f("ix_feedback_predicted_at"), "feedback")
    for name in ("predicted_at", "given_at", "caller"):
        op.drop_column("feedback", name)
    op.drop_table("prediction_hours")
    for name in _ANSWER:
        op.drop_column("predictions", name)


def _now(name: str) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False)
