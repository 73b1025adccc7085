"""Several result objects for each Job, and a Delivery for each object and Peer."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"


def upgrade() -> None:
    op.add_column("job", sa.Column("refusal_at", sa.Float(), nullable=True))
    op.execute("UPDATE job SET refusal_at = updated_at WHERE state IN ('REJECTED', 'FAILED')")
    op.create_table(
        "recipient",
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("peer", sa.Text(), nullable=False),
        sa.Column("given_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "peer"),
    )
    op.create_index("ix_recipient_given", "recipient", ["given_at"])
    op.execute(
        "INSERT INTO recipient (job_id, peer, given_at) SELECT job_id, peer, not_before "
        "FROM delivery"
    )
    op.create_table(
        "result",
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("form", sa.Text(), nullable=False, server_default=""),
        sa.Column("replaced_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "sop_instance_uid"),
    )
    # Where a Peer may have the one object of those days, or it waits to be sent.
    op.execute(
        "INSERT INTO result (job_id, sop_instance_uid, series_instance_uid, sop_class_uid, kind) "
        f"SELECT id, result_sop_uid, result_series_uid, '{_SEGMENTATION}', 'SEG' FROM job "
        "WHERE state IN ('SEGMENTED', 'DELIVERED') OR EXISTS (SELECT 1 FROM delivery "
        "WHERE delivery.job_id = job.id AND delivery.tried_at IS NOT NULL)"
    )
    op.create_table(
        "delivery_of_objects",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("peer", sa.Text(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.Float(), nullable=False),
        sa.Column("tried_at", sa.Float(), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("stored_at", sa.Float(), nullable=True),
        sa.Column("transaction_uid", sa.String(length=64), nullable=True),
        sa.Column("lost_at", sa.Float(), nullable=True),
        sa.Column("done_at", sa.Float(), nullable=True),
        sa.Column("failed_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("job_id", "peer", "sop_instance_uid", name="uq_delivery_object"),
    )
    op.execute(
        "INSERT INTO delivery_of_objects (id, job_id, peer, kind, sop_instance_uid, attempts, "
        "not_before, tried_at, answer, done_at, failed_at) "
        "SELECT delivery.id, delivery.job_id, peer, 'SEG', result.sop_instance_uid, attempts, "
        "not_before, tried_at, answer, done_at, failed_at FROM delivery "
        "JOIN result ON result.job_id = delivery.job_id"
    )
    op.drop_table("delivery")
    op.rename_table("delivery_of_objects", "delivery")
    op.create_index("ix_delivery_due", "delivery", ["peer", "done_at", "failed_at", "not_before"])
    op.create_index("ix_delivery_transaction", "delivery", ["transaction_uid"])
