"""A drop's row is locked while its samples and labels are written: to ask for it once a row proved nothing"""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    for table in ("samples", "labels"):
        op.drop_constraint(op.f(f"fk_{table}_drop_id"), table, type_="foreignkey")
