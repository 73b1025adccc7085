"""Each Association that brought an Instance again, so that the best of them answers for it."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "bringer",
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("association", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["series_instance_uid", "sop_instance_uid"],
            ["instance.series_instance_uid", "instance.sop_instance_uid"],
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("series_instance_uid", "sop_instance_uid", "association"),
    )
