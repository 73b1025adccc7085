"""What closing on evidence, routing by priority and Jobs of several Series need to remember."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "association",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=False),
        sa.Column("began_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.Column("ending", sa.String(length=16), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_association_open", "association", ["ended_at"])
    op.add_column("instance", sa.Column("association", sa.String(length=64), nullable=True))
    op.add_column("instance", sa.Column("planes", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("instance", sa.Column("number", sa.Integer(), nullable=True))
    op.add_column("instance", sa.Column("parts", sa.Integer(), nullable=True))
    op.add_column("delivery", sa.Column("tried_at", sa.Float(), nullable=True))
    op.execute("UPDATE delivery SET tried_at = not_before WHERE attempts > 0")
    op.create_index("ix_instance_sop", "instance", ["sop_instance_uid"])
    op.add_column("series", sa.Column("verdict", sa.String(length=16), nullable=True))
    op.add_column("series", sa.Column("counts", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("series", sa.Column("findings", sa.JSON(), nullable=False, server_default="[]"))
    for name in ("instances", "revision"):
        op.add_column("series", sa.Column(name, sa.Integer(), nullable=False, server_default="0"))
    op.execute(
        "UPDATE series SET instances = (SELECT count(*) FROM instance "
        "WHERE instance.series_instance_uid = series.series_instance_uid)"
    )
    op.add_column("series", sa.Column("purged_at", sa.Float(), nullable=True))
    op.add_column("job", sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("job", sa.Column("verdict", sa.String(length=16), nullable=True))
    op.add_column("job", sa.Column("purged_at", sa.Float(), nullable=True))
    op.drop_index("ix_job_due", "job")
    op.create_index("ix_job_due", "job", ["state", "priority", "not_before"])
    op.create_table(
        "series_association",
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("association", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["series_instance_uid"], ["series.series_instance_uid"], ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("series_instance_uid", "association"),
    )
    op.create_index("ix_series_association", "series_association", ["association"])
    op.create_table(
        "conflict",
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=False),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.Column("file", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["series_instance_uid"], ["series.series_instance_uid"], ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("series_instance_uid", "sop_instance_uid", "sha256"),
    )
    op.create_table(
        "waiting",
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("channel", sa.Integer(), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
        sa.Column("done_at", sa.Float(), nullable=True),
        sa.Column("frame_of_reference_uid", sa.String(length=64), nullable=False),
        sa.Column("conditions", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["series_instance_uid"], ["series.series_instance_uid"], ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("series_instance_uid", "route", "channel"),
    )
    op.create_index("ix_waiting_study", "waiting", ["study_instance_uid", "route"])
    op.create_index("ix_waiting_open", "waiting", ["done_at", "until"])
