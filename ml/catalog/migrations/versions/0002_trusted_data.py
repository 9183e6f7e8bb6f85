"""Near duplicates, people, quarantine's end, label tasks, class operations, erasures, use of the holdout"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("samples", sa.Column("subject", sa.Text()))
    op.add_column("samples", sa.Column("phash_high", sa.Integer()))
    op.add_column("samples", sa.Column("phash_low", sa.Integer()))
    for column in ("drop_id", "phash_high", "phash_low"):
        op.create_index(op.f(f"ix_samples_{column}"), "samples", [column])
    present = sa.text("subject is not null")
    op.create_index(op.f("ix_samples_subject"), "samples", ["subject"], postgresql_where=present)

    for name, kind in (("actor", sa.Text), ("note", sa.Text), ("released_to", sa.Text)):
        op.add_column("quarantine", sa.Column(name, kind()))
    op.add_column("quarantine", sa.Column("ended_at", sa.DateTime(timezone=True)))

    op.add_column("label_tasks", sa.Column("label", sa.Text()))
    op.add_column("label_tasks", sa.Column("suggested", sa.Text()))
    op.add_column("label_tasks", sa.Column("details", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False))
    is_open = sa.text("status = 'open'")
    op.create_index("uq_label_tasks_open", "label_tasks", ["sha256", "reason"], unique=True, postgresql_where=is_open)

    op.add_column("dataset_versions", sa.Column("frozen_holdout", sa.Boolean(), server_default="false", nullable=False))
    frozen = sa.text("frozen_holdout")
    op.create_index(
        "uq_dataset_versions_frozen", "dataset_versions", ["frozen_holdout"], unique=True, postgresql_where=frozen
    )
    _create_class_operations()
    _create_erasures()
    _create_holdout_uses()


def _created_at() -> sa.Column:
    return sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False)


def _list(name: str) -> sa.Column:
    return sa.Column(name, JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False)


def _create_class_operations() -> None:
    op.create_table(
        "class_operations",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        _list("classes_before"),
        _list("classes_after"),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("dataset_version", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        _created_at(),
        sa.CheckConstraint("kind in ('rename', 'merge', 'split')", name=op.f("ck_class_operations_kind")),
        sa.ForeignKeyConstraint(
            ["dataset_version"], ["dataset_versions.id"], name=op.f("fk_class_operations_dataset_version")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_class_operations")),
    )


def _create_erasures() -> None:
    op.create_table(
        "erasures",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("sha256", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        _list("models"),
        sa.Column("dataset_version", sa.Text(), nullable=True),
        _created_at(),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["dataset_version"], ["dataset_versions.id"], name=op.f("fk_erasures_dataset_version")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_erasures")),
    )


def _create_holdout_uses() -> None:
    op.create_table(
        "holdout_uses",
        sa.Column("decision_id", sa.Text(), nullable=False),
        sa.Column("part", sa.Text(), nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        _created_at(),
        sa.CheckConstraint("part in ('frozen', 'growing')", name=op.f("ck_holdout_uses_part")),
        sa.ForeignKeyConstraint(["decision_id"], ["decisions.id"], name=op.f("fk_holdout_uses_decision_id")),
        sa.PrimaryKeyConstraint("decision_id", "part", name=op.f("pk_holdout_uses")),
    )


def downgrade() -> None:
    for table in ("holdout_uses", "erasures", "class_operations"):
        op.drop_table(table)
    op.drop_index("uq_dataset_versions_frozen", table_name="dataset_versions")
    op.drop_column("dataset_versions", "frozen_holdout")
    op.drop_index("uq_label_tasks_open", table_name="label_tasks")
    for column in ("details", "suggested", "label"):
        op.drop_column("label_tasks", column)
    for column in ("ended_at", "released_to", "note", "actor"):
        op.drop_column("quarantine", column)
    op.drop_index(op.f("ix_samples_drop_id"), table_name="samples")
    for column in ("phash_low", "phash_high", "subject"):
        op.drop_column("samples", column)
