"""Identity and level of feedback: by whom it is, what it may do, what became of it"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

_ROLES = "cardinality(roles) > 0 and roles <@ '{{{}}}'::text[]"
_LEVELS = "level in ('propose', 'annotate', 'review')"


def upgrade() -> None:
    _keys()
    _feedback()
    op.add_column("labels", sa.Column("revoked_at", sa.DateTime(timezone=True)))
    for name in ("answer", "answered_by"):
        op.add_column("label_tasks", sa.Column(name, sa.Text()))
    op.drop_constraint("ck_label_tasks_status", "label_tasks")
    op.create_check_constraint(
        op.f("ck_label_tasks_status"), "label_tasks", "status in ('open', 'answered', 'done', 'dismissed')"
    )
    op.create_index(op.f("ix_label_tasks_sha256"), "label_tasks", ["sha256"])
    op.create_table(
        "feedback_callers",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        _time("changed_at", "now()"),
        sa.Column("neutralised_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint("status in ('paused', 'revoked', 'resumed')", name=op.f("ck_feedback_callers_status")),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_feedback_callers")),
    )
    op.create_table(
        "feedback_drops",
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.CheckConstraint(_LEVELS, name=op.f("ck_feedback_drops_level")),
        sa.PrimaryKeyConstraint("prefix", "key_id", name=op.f("pk_feedback_drops")),
    )
    # Whoever collected before: those drops are made by the loop, and nobody in them is verified.
    op.execute(
        "insert into feedback_drops (prefix, key_id, level) select distinct drop_prefix, key_id, level from feedback "
        "where drop_prefix is not null"
    )
    op.create_table(
        "class_proposals",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        _time("decided_at", "now()"),
        sa.CheckConstraint("status in ('confirmed', 'declined')", name=op.f("ck_class_proposals_status")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_class_proposals")),
    )


def _keys() -> None:
    op.add_column("api_keys", sa.Column("identity", sa.Text()))
    # Rotation keeps the name: all keys of a name are one caller, known by the id of the first.
    op.execute(
        "update api_keys k set identity = "
        "(select f.id from api_keys f where f.name = k.name order by f.created_at, f.id limit 1)"
    )
    op.alter_column("api_keys", "identity", nullable=False)
    op.drop_constraint("ck_api_keys_roles", "api_keys")
    op.create_check_constraint(
        op.f("ck_api_keys_roles"), "api_keys", _ROLES.format("predict,feedback,annotate,review,operate,admin")
    )


def _feedback() -> None:
    op.add_column("feedback", sa.Column("key_id", sa.Text(), server_default="", nullable=False))
    op.add_column("feedback", sa.Column("level", sa.Text(), server_default="propose", nullable=False))
    op.add_column("feedback", sa.Column("status", sa.Text(), server_default="stored", nullable=False))
    op.add_column("feedback", sa.Column("image_sha256", sa.Text()))
    op.add_column("feedback", sa.Column("queued", sa.Boolean(), server_default="false", nullable=False))
    op.add_column("feedback", sa.Column("changed", sa.Boolean(), server_default="false", nullable=False))
    op.add_column("feedback", sa.Column("applied_at", sa.DateTime(timezone=True)))
    op.add_column("feedback", sa.Column("revoked_at", sa.DateTime(timezone=True)))
    op.execute(
        "update feedback f set key_id = coalesce((select k.identity from api_keys k where k.name = f.caller limit 1), "
        "''), queued = drop_prefix is not null, image_sha256 = (select p.image_sha256 from predictions p "
        "where p.id = f.prediction_id and p.at = f.predicted_at)"
    )
    op.drop_constraint("uq_feedback_prediction_id_source", "feedback")
    op.create_unique_constraint(
        op.f("uq_feedback_prediction_id_key_id_source"), "feedback", ["prediction_id", "key_id", "source"]
    )
    op.create_check_constraint(op.f("ck_feedback_level"), "feedback", _LEVELS)
    op.create_check_constraint(op.f("ck_feedback_status"), "feedback", "status in ('waiting', 'stored', 'refused')")
    op.create_index(op.f("ix_feedback_image_sha256"), "feedback", ["image_sha256"])
    op.create_index(op.f("ix_feedback_key_id_given_at"), "feedback", ["key_id", "given_at"])
    op.create_index("ix_feedback_waiting", "feedback", ["key_id"], postgresql_where=sa.text("status = 'waiting'"))
    op.create_index("ix_feedback_unqueued", "feedback", ["id"], postgresql_where=sa.text("not queued"))
    op.create_index("ix_feedback_reviews", "feedback", ["image_sha256"], postgresql_where=sa.text("level = 'review'"))
    op.add_column("feedback_waiting", sa.Column("key_id", sa.Text(), server_default="", nullable=False))
    op.add_column("feedback_waiting", sa.Column("level", sa.Text(), server_default="propose", nullable=False))
    op.create_check_constraint(op.f("ck_feedback_waiting_level"), "feedback_waiting", _LEVELS)
    op.create_index(op.f("ix_feedback_waiting_key_id"), "feedback_waiting", ["key_id"])


def downgrade() -> None:
    for name in ("class_proposals", "feedback_drops", "feedback_callers"):
        op.drop_table(name)
    op.drop_index(op.f("ix_label_tasks_sha256"), "label_tasks")
    op.drop_constraint("ck_label_tasks_status", "label_tasks")
    op.execute("update label_tasks set status = 'open' where status = 'answered'")
    op.create_check_constraint(op.f("ck_label_tasks_status"), "label_tasks", "status in ('open', 'done', 'dismissed')")
    for name in ("answer", "answered_by"):
        op.drop_column("label_tasks", name)
    op.drop_column("labels", "revoked_at")
    op.drop_index(op.f("ix_feedback_waiting_key_id"), "feedback_waiting")
    for name in ("key_id", "level"):
        op.drop_column("feedback_waiting", name)
    # The earlier table has one opinion a prediction and source: the last.
    op.execute(
        "delete from feedback f using feedback newer where newer.prediction_id = f.prediction_id "
        "and newer.source = f.source and (newer.given_at, newer.id) > (f.given_at, f.id)"
    )
    for name in ("reviews", "unqueued", "waiting", "key_id_given_at", "image_sha256"):
        op.drop_index(f"ix_feedback_{name}", "feedback")
    op.drop_constraint("uq_feedback_prediction_id_key_id_source", "feedback")
    op.create_unique_constraint(op.f("uq_feedback_prediction_id_source"), "feedback", ["prediction_id", "source"])
    for name in ("key_id", "level", "status", "image_sha256", "queued", "changed", "applied_at", "revoked_at"):
        op.drop_column("feedback", name)
    op.drop_constraint("ck_api_keys_roles", "api_keys")
    op.execute("update api_keys set roles = roles || '{feedback}'::text[] where roles && '{annotate,review}'::text[]")
    op.execute("update api_keys set roles = array_remove(array_remove(roles, 'annotate'), 'review')")
    op.create_check_constraint(op.f("ck_api_keys_roles"), "api_keys", _ROLES.format("predict,feedback,operate,admin"))
    op.drop_column("api_keys", "identity")


def _time(name: str, default: str) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), server_default=sa.text(default), nullable=False)
