"""API keys, as hashes"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("roles", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("per_second", sa.Double()),
        sa.Column("burst", sa.Integer()),
        sa.Column("created_by", sa.Text(), nullable=False),
        _time("created_at", server_default=sa.text("now()"), nullable=False),
        _time("changed_at", nullable=False),
        _time("expires_at"),
        _time("revoked_at"),
        _time("used_at"),
        sa.CheckConstraint(
            "cardinality(roles) > 0 and roles <@ '{predict,feedback,operate,admin}'::text[]",
            name=op.f("ck_api_keys_roles"),
        ),
        sa.CheckConstraint("(per_second is null) = (burst is null)", name=op.f("ck_api_keys_limits")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
    )
    op.create_index(op.f("ix_api_keys_name"), "api_keys", ["name"])


def downgrade() -> None:
    op.drop_table("api_keys")


def _time(name: str, **options: object) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), **options)
