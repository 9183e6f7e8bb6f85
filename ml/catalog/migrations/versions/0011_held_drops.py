"""Drops that wait for a person; changes of labels on record; a secret salt; labels of feedback count as nobody's"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0011"
down_revision = "0010"

_TEXTS = ("sha256", "split", "before", "after", "actor", "cause")


def upgrade() -> None:
    op.add_column("drops", sa.Column("findings", JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False))
    op.add_column("drops", sa.Column("approved_kinds", ARRAY(sa.Text()), server_default="{}", nullable=False))
    op.add_column("drops", sa.Column("approved_by", sa.Text()))
    op.add_column("drops", sa.Column("approved_at", sa.DateTime(timezone=True)))
    op.add_column("drops", sa.Column("approval_reason", sa.Text()))
    _status("status in ('claimed', 'held', 'accepted', 'rejected')", "status in ('claimed', 'held')")
    op.create_index("ix_drops_held", "drops", ["found_at"], postgresql_where=sa.text("status = 'held'"))
    op.create_table(
        "label_changes",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in _TEXTS),
        sa.Column("drop_id", sa.Text()),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_label_changes")),
    )
    for column in ("sha256", "drop_id", "created_at"):
        op.create_index(op.f(f"ix_label_changes_{column}"), "label_changes", [column])
    evaluated = sa.text("split <> 'train'")
    op.create_index("ix_label_changes_evaluation", "label_changes", ["id"], postgresql_where=evaluated)
    op.create_index(op.f("ix_samples_label_split"), "samples", ["label", "split"])
    op.create_table(
        "holdout_growth",
        sa.Column("drop_id", sa.Text(), nullable=False),
        sa.Column("before", sa.Integer(), nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("added", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("diverted", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("drop_id", name=op.f("pk_holdout_growth")),
    )
    op.create_index(op.f("ix_holdout_growth_created_at"), "holdout_growth", ["created_at"])
    op.create_table(
        "split_salts",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("salt", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_split_salts_one")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_split_salts")),
    )
    # Copies of samples without a perceptual hash are recognised by their pixels alone, so their split must not change.
    op.execute(
        "insert into split_salts (id, salt) "
        "select 1, 'evergreen-1' where exists (select 1 from samples where phash_high is null)"
    )
    # Whoever gave feedback so far gave their name themselves.
    op.execute(
        "update labels set source = 'untrusted' where source = 'drop' and drop_id in "
        "(select id from drops where prefix in (select drop_prefix from feedback where drop_prefix is not null))"
    )


def downgrade() -> None:
    op.execute("update labels set source = 'drop' where source in ('untrusted', 'verified')")
    op.execute("update labels set source = 'operator' where source = 'reviewer'")
    op.drop_index(op.f("ix_samples_label_split"), "samples")
    op.drop_table("split_salts")
    op.drop_table("holdout_growth")
    op.drop_table("label_changes")
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
