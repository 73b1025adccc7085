"""Reading and changing the rows of a Job inside a transaction that the caller holds."""

from collections.abc import Sequence

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    and_,
    exists,
    insert,
    select,
    update,
)

from node.core.delivery import Delivery
from node.core.errors import StaleState
from node.core.job import Job, JobEvent, JobState, next_state
from node.core.names import JobId, SeriesInstanceUID, SOPInstanceUID
from node.core.result import ResultKind
from node.core.uids import ResultUIDs
from node.core.verdict import Verdict
from node.store.tables import delivery, job, job_event, job_series, recipient


def jobs_of_series(connection: Connection, uid: SeriesInstanceUID) -> list[Job]:
    """The Jobs that read this Series, the latest first."""
    ids = select(job_series.c.job_id).where(job_series.c.series_instance_uid == uid)
    return select_jobs(connection, job.c.id.in_(ids))


def transition(
    connection: Connection,
    job_id: JobId,
    state: JobState,
    event: JobEvent,
    now: float,
    reason: str | None = None,
) -> Job:
    """The guarded UPDATE behind every change of state, and its row in job_event."""
    to = next_state(state, event)
    changes: dict[str, object] = {
        "state": to,
        "updated_at": now,
        "reason": reason,
        "stage": None,
        "not_before": now,
    }
    if event is JobEvent.RERUN:
        changes |= {"attempts": 0, "timings": {}, "purged_at": None, "refusal_at": None}
    changed = connection.execute(
        update(job).where(job.c.id == job_id, job.c.state == state).values(changes)
    )
    if changed.rowcount == 0:
        raise StaleState(f"Job {job_id} is no longer {state}; it cannot {event} now")
    log_event(connection, job_id, now, event, state, to, reason)
    return select_jobs(connection, job.c.id == job_id)[0]


def log_event(
    connection: Connection,
    job_id: JobId,
    now: float,
    event: str,
    from_state: str | None,
    to_state: str | None,
    detail: str | None,
) -> None:
    connection.execute(
        insert(job_event).values(
            job_id=job_id,
            at=now,
            event=event,
            from_state=from_state,
            to_state=to_state,
            detail=detail,
        )
    )


def select_jobs(
    connection: Connection,
    *conditions: ColumnElement[bool],
    limit: int | None = None,
    oldest: bool = False,
) -> list[Job]:
    due = (job.c.priority.desc(), job.c.not_before, job.c.id)
    order = due if oldest else (job.c.id.desc(),)
    rows = (
        connection.execute(
            select(job).where(*conditions).order_by(*order).limit(1 if oldest else limit)
        )
        .mappings()
        .all()
    )
    series: dict[int, list[str]] = {row["id"]: [] for row in rows}
    links = connection.execute(
        select(job_series).where(job_series.c.job_id.in_(series)).order_by(job_series.c.channel)
    )
    for link in links:
        series[link.job_id].append(link.series_instance_uid)
    peers: dict[int, list[str]] = {row["id"]: [] for row in rows}
    named = select(recipient).where(recipient.c.job_id.in_(peers)).order_by(recipient.c.peer)
    for one in connection.execute(named):
        peers[one.job_id].append(one.peer)
    return [_job(row, series[row["id"]], peers[row["id"]]) for row in rows]


def _job(row: RowMapping, series: Sequence[str], peers: Sequence[str]) -> Job:
    values = dict(row)
    uids = ResultUIDs(
        SeriesInstanceUID(values.pop("result_series_uid")),
        SOPInstanceUID(values.pop("result_sop_uid")),
    )
    values["state"] = JobState(values["state"])
    values["verdict"] = Verdict(values["verdict"]) if values["verdict"] else None
    return Job(
        **values,
        series_instance_uids=tuple(SeriesInstanceUID(uid) for uid in series),
        result_uids=uids,
        recipients=tuple(peers),
    )


def select_deliveries(connection: Connection, *job_ids: JobId) -> list[Delivery]:
    rows = connection.execute(
        select(delivery).where(delivery.c.job_id.in_(job_ids)).order_by(delivery.c.id)
    ).mappings()
    return [Delivery(**{**row, "kind": ResultKind(row["kind"])}) for row in rows]


def superseded() -> ColumnElement[bool]:
    """Of a Job: a later one reads the same Series, and some more Instances."""
    later = job.alias("later")
    return exists().where(later.c.supersedes == job.c.id)


def waits_to_be_given(job_id: JobId) -> ColumnElement[bool]:
    """Of a recipient of this Job: it came later, and what it gets is not decided yet."""
    return and_(recipient.c.job_id == job_id, recipient.c.given_at.is_(None))
