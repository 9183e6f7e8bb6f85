"""Erased content as salted hashes, what an erasure has done so far, and an index to find an image in the log"""

import hmac
import secrets

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0012"
down_revision = "0011"

_PAGE = 1000


def upgrade() -> None:
    op.add_column("segments", sa.Column("erased_at", sa.DateTime(timezone=True)))
    op.add_column("replicas", sa.Column("erasure_id", sa.BigInteger()))
    not_null = sa.text("sha256 is not null")
    op.create_index(op.f("ix_quarantine_sha256"), "quarantine", ["sha256"], postgresql_where=not_null)
    op.create_index("ix_predictions_image", "predictions", [sa.text("left(image_sha256, 7)")])
    op.add_column("erasures", sa.Column("segments", ARRAY(sa.Text()), server_default="{}", nullable=False))
    op.add_column("erasures", sa.Column("receipt", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False))
    unfinished = sa.text("finished_at is null")
    op.create_index("ix_erasures_unfinished", "erasures", ["id"], postgresql_where=unfinished)
    op.create_table(
        "erasure_secret",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_erasure_secret_one")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_erasure_secret")),
    )
    op.create_table(
        "erased_content",
        sa.Column("hmac", sa.Text(), nullable=False),
        sa.Column("erasure_id", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text()),
        sa.Column("size", sa.BigInteger()),
        sa.ForeignKeyConstraint(["erasure_id"], ["erasures.id"], name=op.f("fk_erased_content_erasure_id")),
        sa.PrimaryKeyConstraint("hmac", "erasure_id", name=op.f("pk_erased_content")),
    )
    op.create_index(op.f("ix_erased_content_erasure_id"), "erased_content", ["erasure_id"])
    _salt_hashes()
    op.drop_column("erasures", "sha256")


def _salt_hashes() -> None:
    """Replace the hashes by salted ones; those of unfinished erasures are kept until these have finished."""
    connection = op.get_bind()
    secret = secrets.token_bytes(32)
    connection.execute(sa.text("insert into erasure_secret (id, secret) values (1, :secret)"), {"secret": secret})
    insert = sa.text(
        "insert into erased_content (hmac, erasure_id, sha256) values (:hmac, :id, :sha256) on conflict do nothing"
    )
    for erasure_id, finished in connection.execute(sa.text("select id, finished_at from erasures")).all():
        query = sa.text("select unnest(sha256) from erasures where id = :id")
        hashes = list(connection.execute(query, {"id": erasure_id}).scalars())
        for start in range(0, len(hashes), _PAGE):
            rows = [
                {
                    "hmac": hmac.digest(secret, digest.encode(), "sha256").hex(),
                    "id": erasure_id,
                    "sha256": None if finished else digest,
                }
                for digest in hashes[start : start + _PAGE]
            ]
            connection.execute(insert, rows)


def downgrade() -> None:
    # Salted hashes cannot be turned back: the older release no longer refuses what was erased before.
    op.add_column("erasures", sa.Column("sha256", ARRAY(sa.Text()), server_default="{}", nullable=False))
    op.execute(
        "update erasures set sha256 = coalesce("
        "(select array_agg(sha256) from erased_content where erasure_id = id and sha256 is not null), '{}')"
    )
    op.alter_column("erasures", "sha256", server_default=None)
    op.drop_table("erased_content")
    op.drop_table("erasure_secret")
    op.drop_index("ix_erasures_unfinished", "erasures")
    op.drop_column("erasures", "receipt")
    op.drop_column("erasures", "segments")
    op.drop_index("ix_predictions_image", "predictions")
    op.drop_index(op.f("ix_quarantine_sha256"), "quarantine")
    op.drop_column("replicas", "erasure_id")
    op.drop_column("segments", "erased_at")
