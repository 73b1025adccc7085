"""The tables. Times are seconds since the epoch, UTC."""

from sqlalchemy import (
    JSON,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from node.core.job import JobState

metadata = MetaData()

series = Table(
    "series",
    metadata,
    Column("series_instance_uid", String(64), primary_key=True),
    Column("study_instance_uid", String(64), nullable=False),
    Column("modality", String(16), nullable=False),
    Column("calling_ae_title", String(16), nullable=False),
    Column("first_received_at", Float, nullable=False),
    Column("last_received_at", Float, nullable=False),
    Column("closed_at", Float),
    Column("instances", Integer, nullable=False, server_default="0"),
    Column("revision", Integer, nullable=False, server_default="0"),  # of all that judging reads
    Column("evidence", Text),  # on what it was closed
    Column("findings", JSON, nullable=False, server_default="[]"),  # the same, piece by piece
    Column("routing", Text),  # which route matched, or why none did
    Column("verdict", String(16)),  # how sure it is that the Series is whole; of a closed one
    Column("counts", JSON, nullable=False, server_default="{}"),  # by peer, see dicom/closing/
    Column("purged_at", Float),  # its files are deleted
    Index("ix_series_open", "closed_at", "last_received_at"),
)

association = Table(
    "association",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("calling_ae_title", String(16), nullable=False),
    Column("began_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("ending", String(16)),  # released, incomplete, idle, aborted, lost
    Index("ix_association_open", "ended_at"),
)

series_association = Table(  # which Associations brought something of which Series
    "series_association",
    metadata,
    Column(
        "series_instance_uid",
        ForeignKey("series.series_instance_uid", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("association", String(64), primary_key=True),
    Index("ix_series_association", "association"),
)

conflict = Table(  # an Instance that came again with other bytes; the first ones stay in use
    "conflict",
    metadata,
    Column(
        "series_instance_uid",
        ForeignKey("series.series_instance_uid", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("sop_instance_uid", String(64), primary_key=True),
    Column("sha256", String(64), primary_key=True),
    Column("calling_ae_title", String(16), nullable=False),
    Column("received_at", Float, nullable=False),
    Column("file", Text, nullable=False),  # its name in aside/
)

instance = Table(
    "instance",
    metadata,
    Column(
        "series_instance_uid",
        ForeignKey("series.series_instance_uid", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("sop_instance_uid", String(64), primary_key=True),
    Column("sop_class_uid", String(64), nullable=False),
    Column("transfer_syntax_uid", String(64), nullable=False),
    Column("sha256", String(64), nullable=False),  # of the data set as it was sent
    Column("size_bytes", Integer, nullable=False),
    Column("path", Text, nullable=False),  # relative to the data folder
    Column("calling_ae_title", String(16), nullable=False),
    Column("received_at", Float, nullable=False),
    Column("association", String(64)),  # that brought it first
    Column("planes", JSON, nullable=False, server_default="[]"),  # dicom/planes.py
    Column("number", Integer),  # InstanceNumber
    Column("parts", Integer),  # InConcatenationTotalNumber; 0: of a concatenation, not said
    Index("ix_instance_sop", "sop_instance_uid"),
)

bringer = Table(  # Associations that brought an Instance again, see store/bringers.py
    "bringer",
    metadata,
    Column("series_instance_uid", String(64), primary_key=True),
    Column("sop_instance_uid", String(64), primary_key=True),
    Column("association", String(64), primary_key=True),
    ForeignKeyConstraint(
        ["series_instance_uid", "sop_instance_uid"],
        ["instance.series_instance_uid", "instance.sop_instance_uid"],
        ondelete="CASCADE",
    ),
)

_states = ", ".join(f"'{state}'" for state in JobState)

job = Table(
    "job",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("route", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("model_fingerprint", String(64), nullable=False),
    Column("input_fingerprint", String(64), nullable=False),
    Column("result_series_uid", String(64), nullable=False),
    Column("result_sop_uid", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("not_before", Float, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("reason", Text),
    Column("stage", String(32)),
    Column("timings", JSON, nullable=False, default=dict),
    Column("supersedes", ForeignKey("job.id")),
    Column("priority", Integer, nullable=False, server_default="0"),  # the higher the sooner
    Column("verdict", String(16)),  # the least of its Series'
    Column("purged_at", Float),  # its result files are deleted
    Column("refusal_at", Float),  # settled whether Peers are told that there is no result
    CheckConstraint(f"state IN ({_states})", name="ck_job_state"),
    UniqueConstraint("model", "input_fingerprint", name="uq_job_model_input"),
    Index("ix_job_due", "state", "priority", "not_before"),
)

job_series = Table(
    "job_series",
    metadata,
    Column("job_id", ForeignKey("job.id", ondelete="CASCADE"), primary_key=True),
    Column("channel", Integer, primary_key=True),
    Column("series_instance_uid", ForeignKey("series.series_instance_uid"), nullable=False),
    Index("ix_job_series_uid", "series_instance_uid"),
)

waiting = Table(  # closed Series that fit a channel of a Route whose Model reads several
    "waiting",
    metadata,
    Column(
        "series_instance_uid",
        ForeignKey("series.series_instance_uid", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("study_instance_uid", String(64), nullable=False),
    Column("route", Text, primary_key=True),
    Column("channel", Integer, primary_key=True),
    Column("since", Float, nullable=False),
    Column("until", Float, nullable=False),  # then the Job is refused, naming what is missing
    Column("done_at", Float),  # it became a Job, or was refused
    Column("frame_of_reference_uid", String(64), nullable=False),  # "" for none
    Column("conditions", String(64), nullable=False),  # fingerprint of those that it fitted
    Index("ix_waiting_study", "study_instance_uid", "route"),
    Index("ix_waiting_open", "done_at", "until"),
)

job_event = Table(
    "job_event",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_id", ForeignKey("job.id", ondelete="CASCADE"), nullable=False),
    Column("at", Float, nullable=False),
    Column("event", String(16), nullable=False),
    Column("from_state", String(16)),
    Column("to_state", String(16)),
    Column("detail", Text),
    Index("ix_job_event_job", "job_id"),
)

recipient = Table(  # the Peers that a Job's Routes name
    "recipient",
    metadata,
    Column("job_id", ForeignKey("job.id", ondelete="CASCADE"), primary_key=True),
    Column("peer", Text, primary_key=True),
    Column("given_at", Float),  # what it gets of the result is decided; see delivery
    Index("ix_recipient_given", "given_at"),
)

result = Table(  # the result objects of a Job, each a file in results/
    "result",
    metadata,
    Column("job_id", ForeignKey("job.id", ondelete="CASCADE"), primary_key=True),
    Column("sop_instance_uid", String(64), primary_key=True),
    Column("series_instance_uid", String(64), nullable=False),
    Column("sop_class_uid", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("form", Text, nullable=False, server_default=""),  # of a Segmentation, see core/result
    Column("replaced_at", Float),  # a later attempt made others; some Peer may still have this one
)

delivery = Table(
    "delivery",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_id", ForeignKey("job.id", ondelete="CASCADE"), nullable=False),
    Column("peer", Text, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("sop_instance_uid", String(64), nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("not_before", Float, nullable=False),
    Column("tried_at", Float),  # the last attempt; from then on the Peer may have the object
    Column("answer", Text),
    Column("stored_at", Float),  # the Peer answered success, and has to confirm that it keeps it
    Column("transaction_uid", String(64)),  # of the request to confirm
    Column("lost_at", Float),  # the Peer does not keep what it had answered success to
    Column("done_at", Float),
    Column("failed_at", Float),
    UniqueConstraint("job_id", "peer", "sop_instance_uid", name="uq_delivery_object"),
    Index("ix_delivery_due", "peer", "done_at", "failed_at", "not_before"),
    Index("ix_delivery_transaction", "transaction_uid"),
)

commitment_asked = Table(  # requests for Storage Commitment, and what we answered
    "commitment_asked",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("calling_ae_title", String(16), nullable=False),
    Column("transaction_uid", String(64), nullable=False),
    Column("asked_at", Float, nullable=False),
    Column("items", JSON, nullable=False),  # [[SOP Class UID, SOP Instance UID], …]
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("not_before", Float, nullable=False),
    Column("done_at", Float),  # answered, or given up
    Column("answer", Text),  # the last, in words
    # One file may be read twice: a crash between its row and its end.
    UniqueConstraint("calling_ae_title", "transaction_uid", "asked_at", name="uq_commitment_asked"),
    Index("ix_commitment_due", "calling_ae_title", "done_at", "not_before"),
)
